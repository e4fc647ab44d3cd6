"""SpaceshipNet: images from hidden maps of a generator whose channels are exchanged between images.

Yu et al., "Data-Free Knowledge Distillation via Feature Exchange and Activation Region Constraint", CVPR 2023. Every
``training_period_batches`` batches the generator goes on learning for ``steps_per_training`` steps, on latents that are drawn
once and stay, and targets y of every class in turn:

    one_hot_weight * CE(t, y) + bn_weight * L_BN

without the student. Of the step of lowest loss the bank keeps the generator's three hidden maps. Each group of
``generator_batch_size`` images of a batch starts from the maps of one of the three layers, drawn at random, of images drawn
from the bank. With probability ``exchange_probability`` image i of n then keeps a random half of its channels and takes the
others of image n-1-i (channel-wise feature exchange). The generator as it is now, in evaluation mode, makes images of the
result. The student's side is the objective ``msarc``.

The published run has 200 times a training of 200 steps and 2,000 student steps on 256 images that no other step sees:
``schedule`` student_steps_per_round 10, rounds 40000 and warmup_batches 1, replay.synthetic capacity 2560 and max_draws 1.

Where we deviate: groups are mixed in the buffer, so that a student batch has images of all layers; the bank is bounded
(the published one keeps all maps, 425 kB an image) and in float16; the generator's weights start at PyTorch's defaults, not
Kaiming's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.synthesis.method import Frame, Method, SynthesisContext, SynthesisParts
from raydfkd.synthesis.teacher_inversion import InversionConfig, InversionSynthesizer, portions
from raydfkd.types import BufferSummary, SyntheticBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd import augment
    from raydfkd.losses import inversion
    from raydfkd.models import generators, precision
    from raydfkd.models.generators.upsampling import UpsamplingGenerator
    from raydfkd.models.teachers import bn_statistics
else:
    torch, augment = deferred("torch"), deferred("raydfkd.augment")
    inversion = deferred("raydfkd.losses.inversion")
    generators, precision = deferred("raydfkd.models.generators"), deferred("raydfkd.models.precision")
    bn_statistics = deferred("raydfkd.models.teachers.bn_statistics")

ADAM_BETAS = (0.5, 0.999)


class SpaceshipNetConfig(InversionConfig):
    """SpaceshipNet (Yu et al., CVPR 2023): images of one generator whose hidden channels are exchanged."""

    method: Literal["spaceshipnet"] = "spaceshipnet"
    """Name of the synthesis method."""
    batch_size: int = Field(2560, ge=1)
    """Images per batch added to the buffer: 10 student batches of 256."""
    training_period_batches: int = Field(200, ge=1)
    """Batches made for each training of the generator."""
    steps_per_training: int = Field(200, ge=1)
    """Steps of the generator in a training."""
    generator_batch_size: int = Field(256, ge=2)
    """Images of a generator step, and of a group among which channels are exchanged."""
    exchange_probability: float = Field(0.7, ge=0, le=1)
    """Probability that a group exchanges channels; the others' images are of the maps as they were."""
    bank_size: int = Field(2560, ge=1)
    """Images whose hidden maps are kept, the newest (published: all)."""
    generator: Literal["standard", "large"] = "standard"
    """Generator network."""
    base_channels: int = Field(64, ge=4)
    """Channels of the generator's last hidden layer (ngf)."""
    latent_dim: int = Field(256, ge=1)
    """Width of the latent vector."""
    lr: float = Field(1e-3, gt=0)
    """Adam rate of the generator."""
    bn_weight: float = Field(1.0, ge=0)
    """Weight of the BatchNorm-statistics loss."""
    one_hot_weight: float = Field(0.5, ge=0)
    """Weight of the cross-entropy to the target class."""
    crop_padding: int = Field(4, ge=0)
    """Random-crop padding in pixels before the teacher sees an image during synthesis."""
    flip: bool = True
    """Mirror images at random before the teacher sees them during synthesis."""

    def images_trained_on(self, batches: int) -> int:
        trainings = -(-batches // self.training_period_batches)
        return self.with_alignment(trainings * self.steps_per_training * self.generator_batch_size)

    @property
    def reads_batch_norm(self) -> bool:
        return self.bn_weight > 0


def exchange_channels(maps_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Each image keeps a random half of its channels, rounded down, and has the others of its counterpart from the batch's end.

    ``generator`` is a CPU generator.
    """
    ranks_BC = torch.rand(maps_BCHW.shape[:2], generator=generator).argsort(1).argsort(1)
    kept_BC = (ranks_BC < maps_BCHW.shape[1] // 2).to(maps_BCHW.device)
    return torch.where(kept_BC[:, :, None, None], maps_BCHW, maps_BCHW.flip(0))


class MapBank:
    """The newest images' hidden maps, by layer, with their targets; float16 on the CPU."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._maps: list[Tensor] = []
        self._targets = torch.empty(0, dtype=torch.int64)

    @property
    def num_layers(self) -> int:
        return len(self._maps)

    def add(self, maps: list[Tensor], targets_B: Tensor) -> None:
        """Keeps these, and of the earlier ones as many as there is room for."""
        new = [each.detach().to("cpu", torch.float16) for each in maps]
        held = self._maps or [each[:0] for each in new]
        self._maps = [torch.cat(pair)[-self._capacity :] for pair in zip(held, new, strict=True)]
        self._targets = torch.cat([self._targets, targets_B.cpu()])[-self._capacity :]

    def draw(self, num: int, layer: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Maps float32 [num,C,h,w] of one layer and targets [num], each image again only when all were drawn."""
        size = len(self._targets)
        rounds = [torch.randperm(size, generator=generator) for _ in range(-(-num // size))]
        rows = torch.cat(rounds)[:num]
        return self._maps[layer][rows].float(), self._targets[rows]

    def state_dict(self) -> dict[str, Any]:
        return {"maps": [each.clone() for each in self._maps], "targets": self._targets.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._maps, self._targets = list(state["maps"]), state["targets"]


class SpaceshipNetSynthesizer(InversionSynthesizer):
    """One generator network, trained now and then, and the bank of its hidden maps.

    Raises:
        UnknownNameError, ConfigError: there is no such generator, or it cannot make such images.
        ConfigError, TeacherError: feature alignment lacks something.
    """

    config: SpaceshipNetConfig

    def __init__(
        self, config: SpaceshipNetConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device
    ) -> None:
        super().__init__(config, parts, context, device)
        self._statistics = bn_statistics.BatchNormStatistics(self.teacher, required=config.reads_batch_norm)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            network = generators.build_generator(
                config.generator, self.teacher.image_shape, config.latent_dim, config.base_channels
            )
        self.generator = cast("UpsamplingGenerator", network.to(device).to(memory_format=torch.channels_last))
        self.bank = MapBank(config.bank_size)
        self._num_batches = 0
        self._metrics: dict[str, float] = {}

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        config = self.config
        if self._num_batches % config.training_period_batches == 0:
            self._train()
        self._num_batches += 1
        self.generator.eval()
        parts = [self._made(size) for size in portions(config.batch_size, config.generator_batch_size)]
        return SyntheticBatch.concat(parts, metrics=self._metrics)

    def _train(self) -> None:
        config = self.config
        self.generator.train()
        latents = torch.randn(config.generator_batch_size, config.latent_dim, generator=self.rng).to(self.device)
        targets = torch.arange(config.generator_batch_size, device=self.device) % self.teacher.num_classes
        optimizer = torch.optim.Adam(self.generator.parameters(), config.lr, ADAM_BETAS)
        best_loss, best_maps = float("inf"), None
        for _ in range(config.steps_per_training):
            maps, loss, terms = self._loss(latents, targets)
            value = float(loss.detach())
            if best_maps is None or value < best_loss:
                best_loss, best_maps, self._metrics = value, maps, {"loss": value, **terms}
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        assert best_maps is not None
        self.bank.add(best_maps, targets)

    def _loss(self, latents: Tensor, targets: Tensor) -> tuple[list[Tensor], Tensor, dict[str, float]]:
        """The generator's hidden maps (detached), the loss, and its terms."""
        config = self.config
        with precision.autocast(self.device, self.context.bf16):
            maps = self.generator.maps(latents)
            images = self.generator.decode(maps[-1], len(maps) - 1)
            view = augment.random_crop_flip(images, config.crop_padding, config.flip, self.rng)
            with self._statistics.capture():
                teacher_logits = self.teacher(view)
        batch = self._statistics.batch
        terms = {
            "bn_loss": inversion.bn_loss(batch, self._statistics.running) if batch else teacher_logits.new_zeros(()),
            "one_hot_loss": inversion.one_hot_loss(teacher_logits, targets),
        }
        loss = config.bn_weight * terms["bn_loss"] + config.one_hot_weight * terms["one_hot_loss"]
        loss, terms = self._aligned(loss, terms, images, targets)
        return [each.detach() for each in maps], loss, {name: float(term.detach()) for name, term in terms.items()}

    def _made(self, num: int) -> SyntheticBatch:
        """Images of one group, which have no targets where channels were exchanged."""
        layer = int(torch.randint(self.bank.num_layers, (), generator=self.rng))
        maps, targets = self.bank.draw(num, layer, self.rng)
        if float(torch.rand((), generator=self.rng)) < self.config.exchange_probability:
            maps, targets = exchange_channels(maps, self.rng), torch.full_like(targets, -1)
        with torch.no_grad(), precision.autocast(self.device, self.context.bf16):
            images = self.generator.decode(maps.to(self.device, memory_format=torch.channels_last), layer)
        return self._finish(images, targets, {})

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "generator": self.generator.state_dict(),
            "bank": self.bank.state_dict(),
            "num_batches": self._num_batches,
            "metrics": self._metrics,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.load_state_dict(state["generator"])
        self.bank.load_state_dict(state["bank"])
        self._num_batches, self._metrics = state["num_batches"], dict(state["metrics"])


METHOD = Method(
    config=SpaceshipNetConfig,
    build=SpaceshipNetSynthesizer,
    title="SpaceshipNet: a generator whose hidden channels are exchanged between images",
    paper="Yu et al., CVPR 2023",
    needs_batch_norm=True,
    needs_gradient=True,
    needs_image_classes=True,
    frame=Frame(student={"objective": {"kind": "msarc"}}, fresh_steps=10),
)
