"""What DAFL, DFAD, DDAD, DFQ and ZSKT share: one generator for the run, trained against the student, whose images are not kept.

These papers alternate one step of the generator with k steps of the student, each on images that are made for it and dropped.
Here images reach the student through the buffer, so an alternation is a batch: the generator's steps, then ``batch_size``
images from it. With ``batch_size`` k times the student's, ``schedule.student_steps_per_round`` k and
``replay.synthetic.max_draws`` 1, every image is seen once, as published; a larger table or more draws save synthesis. The
generator's loss is

    one_hot_weight * CE(t, argmax t) + entropy_weight * sum p log10 p + activation_weight * L_act + bn_weight * L_BN
        + adversarial_weight * L_adv

of which each method takes some terms; L_adv is minus a distance between student and teacher (``losses.inversion``).

Where we deviate: images are rounded to 8 bits on their way to the student; the student is in evaluation mode while the
generator trains, as in the re-implementations that later papers compare with, where DAFL, DFAD and ZSKT leave it in training
mode; entropies are to base 10, as in DAFL's code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.synthesis.method import SynthesisContext, SynthesisParts
from raydfkd.synthesis.teacher_inversion import LayerLossConfig, LayerLossSynthesizer, portions
from raydfkd.types import BufferSummary, SyntheticBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raydfkd.losses import inversion
    from raydfkd.models import generators, precision
    from raydfkd.models import weights as weight_files
    from raydfkd.models.generators import memory_networks
else:
    torch, inversion = deferred("torch"), deferred("raydfkd.losses.inversion")
    generators, precision = deferred("raydfkd.models.generators"), deferred("raydfkd.models.precision")
    memory_networks = deferred("raydfkd.models.generators.memory_networks")
    weight_files = deferred("raydfkd.models.weights")


class AdversarialConfig(LayerLossConfig):
    """Settings of a generator that is trained against the student."""

    batch_size: int = Field(1280, ge=1)
    """Images per batch added to the buffer, all of the generator as its steps have left it: 5 batches of 256 as published."""
    steps_per_batch: int = Field(1, ge=1)
    """Steps of the generator before each batch."""
    generator_batch_size: int = Field(256, ge=1)
    """Images of a generator step, which are not kept."""
    generator: str = "large"
    """Generator network: standard, large, transposed for images of 64 to 128 pixels, or normalized, which is DAFL's own and
    normalises its images as a batch."""
    base_channels: int = Field(64, ge=4)
    """Channels of the generator's last hidden layer (ngf)."""
    latent_dim: int = Field(256, ge=1)
    """Width of the latent vector."""
    generator_lr: float = Field(1e-3, gt=0)
    """Adam rate of the generator."""
    generator_betas: tuple[float, float] = (0.5, 0.999)
    """Adam's decay rates of the generator."""
    max_grad_norm: float | None = Field(None, gt=0)
    """Cut the generator's gradient to this norm; null: never."""
    one_hot_weight: float = Field(0.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher predicts."""
    entropy_weight: float = Field(0.0, ge=0)
    """Weight of the negative entropy, to base 10, of the batch's mean prediction: classes are made equally often."""
    activation_weight: float = Field(0.0, ge=0)
    """Weight of the reward for large penultimate features; 0: the teacher's features are not read."""
    adversarial_weight: float = Field(0.0, ge=0)
    """Weight of the distance between student and teacher, which the generator enlarges; 0: the student is not looked at."""
    adversarial_distance: Literal["kl", "l1", "log_l1"] = "kl"
    """That distance: KL of student from teacher at temperature 1, mean L1 of the logits, or log(L1 + 1)."""

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        weights = ("one_hot_weight", "entropy_weight", "activation_weight", "bn_weight", "adversarial_weight")
        if not any(getattr(self, name) for name in weights):
            raise ValueError(f"{', '.join(weights)} are all 0, so the generator learns nothing: raise one")
        if self.adversarial_weight == 0:
            self.refuse_idle("adversarial_weight 0", "adversarial_distance")
        return self

    def images_trained_on(self, batches: int) -> int:
        return self.with_alignment(batches * self.steps_per_batch * self.generator_batch_size)


class AdversarialSynthesizer(LayerLossSynthesizer):
    """One generator and its optimizer; ``step`` trains it and makes a batch of fresh images.

    Raises:
        UnknownNameError, ConfigError: there is no such generator, or it cannot make such images.
        TeacherError: ``activation_weight`` is above 0 and the teacher's penultimate features cannot be found.
        ConfigError, TeacherError: feature alignment lacks something.
    """

    config: AdversarialConfig

    def __init__(
        self, config: AdversarialConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device
    ) -> None:
        super().__init__(config, parts, context, device)
        if config.activation_weight > 0:
            _ = self.teacher.classifier_head  # refuses a teacher without one
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            network = self._network()
        self.generator = network.to(device).to(memory_format=torch.channels_last).train()
        self._optimizer = torch.optim.Adam(self.generator.parameters(), config.generator_lr, config.generator_betas)

    def _network(self) -> nn.Module:
        config, shape, statistics = self.config, self.teacher.image_shape, self.teacher.normalization
        if config.generator == "normalized":
            mean, std = statistics.mean.tolist(), statistics.std.tolist()
            return memory_networks.NormalizedGenerator(
                shape, config.latent_dim, config.base_channels, mean, std, spectral=False
            )
        return generators.build_generator(config.generator, shape, config.latent_dim, config.base_channels)

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        config, metrics = self.config, {}
        for _ in range(config.steps_per_batch):
            metrics = self._train()
        parts = [self._made(size) for size in portions(config.batch_size, config.generator_batch_size)]
        return SyntheticBatch.concat(parts, metrics=metrics)

    def _train(self) -> dict[str, float]:
        """One step of the generator; its loss and terms."""
        config = self.config
        features = student_logits = None
        with precision.autocast(self.device, self.context.bf16):
            images = self.generator(self._latents(config.generator_batch_size)).float()
            with self._reading_layers():
                if config.activation_weight > 0:
                    teacher_logits, features = self.teacher.forward_features(images)
                else:
                    teacher_logits = self.teacher(images)
            if config.adversarial_weight > 0:
                student_logits = self.student(self.teacher.normalize(images))
        predicted = teacher_logits.argmax(1)
        terms: dict[str, Tensor] = {}
        if config.one_hot_weight > 0:
            terms["one_hot_loss"] = inversion.one_hot_loss(teacher_logits, predicted)
        if config.entropy_weight > 0:
            terms["entropy_loss"] = inversion.negative_batch_entropy(teacher_logits)
        if features is not None:
            terms["activation_loss"] = inversion.activation_loss(features)
        if config.bn_weight > 0:
            terms["bn_loss"] = self._bn_loss(teacher_logits)
        if student_logits is not None:
            terms["adversarial_loss"] = -inversion.distance(student_logits, teacher_logits, config.adversarial_distance)
        weights = {
            "one_hot_loss": config.one_hot_weight,
            "entropy_loss": config.entropy_weight,
            "activation_loss": config.activation_weight,
            "bn_loss": config.bn_weight,
            "adversarial_loss": config.adversarial_weight,
        }
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        loss, terms = self._with_patches(loss, terms)
        loss, terms = self._aligned(loss, terms, images, predicted)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.generator.parameters(), config.max_grad_norm)
        self._optimizer.step()
        return {"loss": float(loss.detach()), **{name: float(term.detach()) for name, term in terms.items()}}

    def _made(self, num: int) -> SyntheticBatch:
        """Fresh images, which BatchNorm reads together, in the generator's training mode as published."""
        with torch.no_grad(), precision.autocast(self.device, self.context.bf16):
            images = self.generator(self._latents(num)).float()
        return self._finish(images, torch.full((num,), -1), {})

    def _latents(self, num: int) -> Tensor:
        return torch.randn(num, self.config.latent_dim, generator=self.rng).to(self.device)

    def state_dict(self) -> dict[str, Any]:
        own = {"generator": self.generator.state_dict(), "optimizer": self._optimizer.state_dict()}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.load_state_dict(state["generator"])
        weight_files.load_optimizer(self._optimizer, state["optimizer"])
