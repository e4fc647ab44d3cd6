"""NAYER: a generator of class embeddings, whose randomness is a layer that is drawn anew for each batch.

Tran et al., "NAYER: Noisy Layer Data Generation for Efficient and Effective Data-free Knowledge Distillation", CVPR 2024 (arXiv
2310.00258). For each batch the noisy layers are drawn anew (``NoisyLabelGenerator``), and the whole generator is trained for
``steps_per_batch`` steps on

    bn_weight * L_BN + one_hot_weight * CE(t, y) + adversarial_weight * L_adv

with FastDFKD's L_BN, smoothed over batches, and its L_adv, after the warm-up. Targets y have every class equally often, and the
rest at random. The images of the step of lowest loss are stored. The generator goes on from batch to batch, and is drawn anew
as a whole after ``life_batches``.

The published run (NAYER-100 on CIFAR-100) makes 10 batches in each of 20 epochs of warm-up, then 2 in each of 100 epochs of 400
student steps of 512 (lr 0.2, cosine, temperature 20), from all images made so far: ``schedule`` warmup_batches 200,
batches_per_round 2, student_steps_per_round 400, rounds 100 (200 and 300 for NAYER-200 and -300), and a
replay.synthetic.capacity of 240000. The presets are of the published scripts.

Class embeddings are CLIP's of the text "a image of NAME" in the paper: a file of them, or a text encoder of transformers. With
neither, codes are drawn once that are orthogonal to one another; the paper's ablation has one-hot codes in their place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.errors import ConfigError
from raydfkd.models.hugging_face.hub_folder import PREFIX
from raydfkd.settings import Budget, InputFile, InputPath
from raydfkd.synthesis.method import Method, Presets, SynthesisContext, SynthesisParts
from raydfkd.synthesis.teacher_inversion import InversionConfig, InversionSynthesizer
from raydfkd.types import BufferSummary, SyntheticBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd import augment
    from raydfkd.losses import inversion
    from raydfkd.models import generators, precision
    from raydfkd.models.generators import class_embeddings, noisy_label_generator
    from raydfkd.models.teachers import bn_statistics
else:
    torch, augment = deferred("torch"), deferred("raydfkd.augment")
    inversion = deferred("raydfkd.losses.inversion")
    generators, precision = deferred("raydfkd.models.generators"), deferred("raydfkd.models.precision")
    class_embeddings = deferred("raydfkd.models.generators.class_embeddings")
    noisy_label_generator = deferred("raydfkd.models.generators.noisy_label_generator")
    bn_statistics = deferred("raydfkd.models.teachers.bn_statistics")

ADAM_BETAS = (0.5, 0.999)
LARGEST_SEED = 2**31


class NAYERConfig(InversionConfig):
    """NAYER (Tran et al., CVPR 2024): a generator of class embeddings with a noisy layer that is drawn for each batch."""

    presets: ClassVar[Presets] = {
        "cifar10": {"steps_per_batch": 30},
        "cifar100": {},
        "tiny_imagenet": {
            "batch_size": 200,
            "steps_per_batch": 60,
            "flip": False,
            "life_batches": 40,
            "warmup_life_batches": 200,
        },
    }

    method: Literal["nayer"] = "nayer"
    """Name of the synthesis method."""
    preset: Literal["cifar10", "cifar100", "tiny_imagenet"] | None = None
    """Published settings of a data set, for what is not given here; the defaults are CIFAR-100's."""
    batch_size: int = Field(400, ge=2)
    """Images per batch added to the buffer."""
    steps_per_batch: int = Field(40, ge=1)
    """Steps of the generator for each batch."""
    class_embeddings: InputPath | None = None
    """File of one array [classes,width] (.safetensors, .pt, .npz or .npy), such as the class names' CLIP embeddings; null: from
    text_encoder, or drawn codes."""
    text_encoder: Annotated[str, InputFile(prefix=PREFIX)] | None = None
    """CLIP model of transformers (hf:FOLDER or hf:ORG/NAME) that encodes the class names; the paper's is
    hf:openai/clip-vit-base-patch32; null: none."""
    class_names: tuple[str, ...] | None = None
    """Names that text_encoder encodes, in the order of the teacher's logits."""
    code_dim: int = Field(512, ge=1)
    """Width of drawn class codes; an embedding has its own."""
    generator: str = "standard"
    """Generator network behind the noisy layers: standard, large, or transposed for images of 64 to 128 pixels."""
    latent_dim: int = Field(256, ge=1)
    """Width of the noisy layers' output, which is that network's latent vector."""
    base_channels: int = Field(64, ge=4)
    """Channels of the generator's last hidden layer (ngf)."""
    lr: float = Field(4e-3, gt=0)
    """Adam rate of the generator."""
    bn_weight: float = Field(10.0, ge=0)
    """Weight of the BatchNorm-statistics loss."""
    one_hot_weight: float = Field(0.5, ge=0)
    """Weight of the cross-entropy to the target class."""
    adversarial_weight: float = Field(1.33, ge=0)
    """Weight of the teacher-student disagreement, once the student learns."""
    bn_momentum: float = Field(0.9, ge=0, lt=1)
    """Share of earlier batches' statistics in the BatchNorm loss; only the rest carries gradient."""
    life_batches: Annotated[int, Budget()] = Field(20, ge=1)
    """Batches of a generator before it is drawn anew as a whole (10 epochs of 2 batches); so it is when the warm-up ends."""
    warmup_life_batches: Annotated[int, Budget()] = Field(100, ge=1)
    """The same during the warm-up (10 epochs of 10 batches)."""
    crop_padding: int = Field(4, ge=0)
    """Random-crop padding in pixels before the teacher sees an image during synthesis."""
    flip: bool = True
    """Mirror images at random before the teacher sees them during synthesis."""

    @model_validator(mode="after")
    def _one_source_of_embeddings(self) -> Self:
        if self.class_embeddings is not None:
            self.refuse_idle("class_embeddings", "text_encoder", "code_dim")
        if self.text_encoder is None:
            self.refuse_idle("without text_encoder the generator", "class_names")
        elif self.class_names is None:
            raise ValueError(f"text_encoder {self.text_encoder} has nothing to encode: give class_names")
        else:
            self.refuse_idle("text_encoder", "code_dim")
        return self

    def images_trained_on(self, batches: int) -> int:
        return self.with_alignment(batches * self.steps_per_batch * self.batch_size)

    @property
    def reads_batch_norm(self) -> bool:
        return self.bn_weight > 0


class NAYERSynthesizer(InversionSynthesizer):
    """One generator network that lives for some batches, and the smoothed statistics of what it made.

    Raises:
        ConfigError: the class embeddings cannot be read.
        UnknownNameError, ConfigError: there is no such generator, or it cannot make such images.
        ConfigError, TeacherError: feature alignment lacks something.
    """

    config: NAYERConfig

    def __init__(self, config: NAYERConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> None:
        super().__init__(config, parts, context, device)
        self._statistics = bn_statistics.BatchNormStatistics(self.teacher, required=config.reads_batch_norm)
        self._average: list[tuple[Tensor, Tensor]] | None = None
        self._in_warmup = True
        self._draw_generator(self._embeddings())

    def _embeddings(self) -> Tensor:
        """[K,D] of the classes, on the CPU."""
        config, num_classes = self.config, self.teacher.num_classes
        if config.class_embeddings is not None:
            return class_embeddings.read_embeddings(config.class_embeddings, num_classes)
        if config.text_encoder is not None:
            assert config.class_names is not None
            if len(config.class_names) != num_classes:
                raise ConfigError(
                    f"class_names has {len(config.class_names)} names for {num_classes} classes: give one for each"
                )
            return class_embeddings.encode_names(config.text_encoder, config.class_names)
        return class_embeddings.random_codes(num_classes, config.code_dim, self.rng)

    def _draw_generator(self, embeddings: Tensor) -> None:
        """A new network for these embeddings, from the synthesizer's draws."""
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(LARGEST_SEED, (), generator=self.rng)))
            body = generators.build_generator(
                config.generator, self.teacher.image_shape, config.latent_dim, config.base_channels
            )
            network = noisy_label_generator.NoisyLabelGenerator(body, embeddings, config.batch_size)
        self.generator = network.to(self.device).to(memory_format=torch.channels_last).train()
        self._age_batches = 0

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        config = self.config
        self._replace_when_due(summary)
        self.generator.redraw_noise(self.rng)
        targets = self._targets()
        optimizer = torch.optim.Adam(self.generator.parameters(), config.lr, ADAM_BETAS)
        best_loss, best_images, metrics = float("inf"), None, {}
        for _ in range(config.steps_per_batch):
            images, loss, terms = self._loss(targets)
            value = float(loss.detach())
            if best_images is None or value < best_loss:
                best_loss, best_images, metrics = value, images.detach(), terms
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        self._update_average()
        self._age_batches += 1
        assert best_images is not None
        return self._finish(best_images, targets, {"loss": best_loss, **metrics})

    def _replace_when_due(self, summary: BufferSummary) -> None:
        in_warmup = summary.num_batches < self.context.warmup_batches
        life = self.config.warmup_life_batches if in_warmup else self.config.life_batches
        if self._age_batches >= life or in_warmup != self._in_warmup:
            self._draw_generator(self.generator.embeddings_KD)
        self._in_warmup = in_warmup

    def _targets(self) -> Tensor:
        """Every class in turn as often as there is room for all of them, then classes at random."""
        num_classes, size = self.teacher.num_classes, self.config.batch_size
        whole = size // num_classes
        rest = torch.randint(0, num_classes, (size - whole * num_classes,), generator=self.rng)
        return torch.cat([torch.arange(num_classes).repeat(whole), rest]).to(self.device)

    def _loss(self, targets: Tensor) -> tuple[Tensor, Tensor, dict[str, float]]:
        """Images, the loss, and its terms."""
        config = self.config
        adversarial = config.adversarial_weight > 0 and not self._in_warmup
        with precision.autocast(self.device, self.context.bf16):
            images = self.generator(targets).float()
            view = augment.random_crop_flip(images, config.crop_padding, config.flip, self.rng)
            with self._statistics.capture():
                teacher_logits = self.teacher(view)
            student_logits = self.student(self.teacher.normalize(view)) if adversarial else None
        batch = self._statistics.batch
        if self._average is not None:
            batch = inversion.smoothed_statistics(batch, self._average, config.bn_momentum)
        terms = {
            "bn_loss": inversion.bn_loss(batch, self._statistics.running) if batch else teacher_logits.new_zeros(()),
            "one_hot_loss": inversion.one_hot_loss(teacher_logits, targets),
        }
        loss = config.bn_weight * terms["bn_loss"] + config.one_hot_weight * terms["one_hot_loss"]
        if student_logits is not None:
            terms["adversarial_loss"] = inversion.adversarial_loss(student_logits, teacher_logits)
            loss = loss + config.adversarial_weight * terms["adversarial_loss"]
        loss, terms = self._aligned(loss, terms, images, targets)
        return images, loss, {name: float(term.detach()) for name, term in terms.items()}

    def _update_average(self) -> None:
        """FastDFKD's BN momentum, once a batch, from the last step's raw statistics."""
        batch = [(mean.detach(), variance.detach()) for mean, variance in self._statistics.batch]
        if self._average is not None:
            batch = inversion.smoothed_statistics(batch, self._average, self.config.bn_momentum)
        self._average = batch

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "generator": self.generator.state_dict(),
            "average": None if self._average is None else [list(pair) for pair in self._average],
            "age_batches": self._age_batches,
            "in_warmup": self._in_warmup,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.load_state_dict(state["generator"])
        average = state["average"]
        self._average = None if average is None else [(m.to(self.device), v.to(self.device)) for m, v in average]
        self._age_batches, self._in_warmup = state["age_batches"], state["in_warmup"]


METHOD = Method(
    config=NAYERConfig,
    build=NAYERSynthesizer,
    title="NAYER: a generator of class embeddings, with a noisy layer drawn for each batch",
    paper="Tran et al., CVPR 2024",
    needs_batch_norm=True,
    needs_gradient=True,
    needs_image_classes=True,
)
