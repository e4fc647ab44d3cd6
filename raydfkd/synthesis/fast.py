"""FastDFKD's meta-generator: each batch comes from a clone adapted for a few steps, which then updates the common generator.

Fang et al., "Up to 100x Faster Data-Free Knowledge Distillation", AAAI 2022. SSD-KD (``ssdkd.py``) builds on it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.settings import Budget
from raydfkd.synthesis.method import Method, SynthesisContext, SynthesisParts
from raydfkd.synthesis.teacher_inversion import LAYER_FIGURES, TargetedConfig, TargetedSynthesizer
from raydfkd.types import BufferSummary, SyntheticBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raydfkd import augment
    from raydfkd.losses import inversion
    from raydfkd.models import generators, precision
    from raydfkd.models import weights as weight_files
    from raydfkd.models.generators.upsampling import LatentGenerator
else:
    torch, augment = deferred("torch"), deferred("raydfkd.augment")
    inversion = deferred("raydfkd.losses.inversion")
    generators, precision = deferred("raydfkd.models.generators"), deferred("raydfkd.models.precision")
    weight_files = deferred("raydfkd.models.weights")

ADAM_BETAS = (0.5, 0.999)
REPTILE_SCALE = 67.0
"""FastDFKD multiplies the Reptile difference by this before it is used as the meta-gradient."""
PUBLISHED_RATES = {2: (5e-3, 0.015), 5: (3e-3, 0.01), 10: (2e-3, 0.01)}
"""FastDFKD's (generator, latent) learning rates for 2, 5 and 10 steps a batch."""


class FastConfig(TargetedConfig):
    """FastDFKD (Fang et al., AAAI 2022): a meta-learned generator adapted for a few steps to each batch."""

    method: Literal["fast"] = "fast"
    """Name of the synthesis method."""
    steps_per_batch: int = Field(2, ge=1)
    """Adaptation steps k of the generator for each batch (T_g in SSD-KD)."""
    meta: Literal["fomaml", "reptile", "sequential"] = "fomaml"
    """How the common generator learns from its adapted clone; sequential: no clone, one generator is trained throughout."""
    generator: str = "standard"
    """Generator network: standard, large, or transposed for images of 64 to 128 pixels."""
    base_channels: int = Field(64, ge=4)
    """Channels of the generator's last hidden layer (ngf)."""
    latent_dim: int = Field(256, ge=1)
    """Width of the latent vector."""
    generator_lr: float | None = Field(None, gt=0)
    """Adam rate of the clone; null: the published rate for steps_per_batch (2, 5 or 10; the nearest for others)."""
    latent_lr: float | None = Field(None, gt=0)
    """Adam rate of the latents; null: the published rate for steps_per_batch."""
    bn_weight: float = Field(10.0, ge=0)
    """Weight of the BatchNorm-statistics loss."""
    one_hot_weight: float = Field(0.4, ge=0)
    """Weight of the cross-entropy to the target class."""
    adversarial_weight: float = Field(1.1, ge=0)
    """Weight of the teacher-student disagreement."""
    bn_momentum: float = Field(0.9, ge=0, lt=1)
    """Share of earlier calls' statistics in the BatchNorm loss; only the rest carries gradient."""
    adversarial_start_batches: Annotated[int | None, Budget()] = Field(None, ge=0)
    """Batches (of the whole run) before the adversarial loss starts; null: one before the warm-up ends, as published."""
    reset_batches: Annotated[int | None, Budget()] = Field(None, ge=0)
    """Batches (of the whole run) before the one reset of the generator's first layer; null: warm-up + 119, as published."""
    reset_bn_weight_mean: float = 0.0
    """Mean of the re-initialised first BatchNorm weight: 0 as in the published code, 1 as probably intended."""
    crop_padding: int = Field(4, ge=0)
    """Random-crop padding in pixels before the teacher sees an image during synthesis."""
    flip: bool = True
    """Mirror images at random before the teacher sees them during synthesis."""

    @model_validator(mode="after")
    def _refuse_ignored(self) -> Self:
        if self.adversarial_weight == 0:
            self.refuse_idle("adversarial_weight 0", "adversarial_start_batches")
        return self

    def images_trained_on(self, batches: int) -> int:
        return self.with_alignment(batches * self.steps_per_batch * self.batch_size)

    def rates(self) -> tuple[float, float]:
        """The (generator, latent) learning rates in force."""
        nearest = min(PUBLISHED_RATES, key=lambda k: abs(k - self.steps_per_batch))
        generator_lr, latent_lr = PUBLISHED_RATES[nearest]
        return (
            generator_lr if self.generator_lr is None else self.generator_lr,
            latent_lr if self.latent_lr is None else self.latent_lr,
        )


class FastSynthesizer(TargetedSynthesizer):
    """One meta-generator; ``step`` makes a batch.

    Args:
        config: the method's settings.
        parts: see ``InversionSynthesizer``; the teacher has BatchNorm layers (the builder has checked).
        generator: latents [B,latent_dim] to images [B,C,H,W] in [0,1].
        context: see ``SynthesisContext``.
        device: where all of it runs.
    """

    config: FastConfig

    def __init__(
        self,
        config: FastConfig,
        parts: SynthesisParts,
        generator: LatentGenerator,
        context: SynthesisContext,
        device: torch.device,
    ) -> None:
        super().__init__(config, parts, context, device)
        self.generator = generator.to(device).to(memory_format=torch.channels_last).train()
        self._average: list[tuple[Tensor, Tensor]] | None = None
        self._was_reset = False
        generator_lr, self._latent_lr = config.rates()
        on_gpu = device.type == "cuda"
        self._worker = self.generator if config.meta == "sequential" else copy.deepcopy(self.generator)
        self._latents = torch.zeros(config.batch_size, config.latent_dim, device=device).requires_grad_()
        self._optimizer = torch.optim.Adam(
            [
                {"params": list(self._worker.parameters()), "lr": generator_lr},
                {"params": [self._latents], "lr": self._latent_lr},
            ],
            betas=ADAM_BETAS,
            capturable=on_gpu,  # its step counts stay on the device
            fused=on_gpu or None,
        )
        # FOMAML sums k gradients and takes one step k times as long (FastDFKD).
        meta_lr = generator_lr * config.steps_per_batch if config.meta == "fomaml" else generator_lr
        self._meta_optimizer = torch.optim.Adam(self.generator.parameters(), lr=meta_lr, betas=ADAM_BETAS, fused=on_gpu or None)

    @classmethod
    def build(cls, config: FastConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> Self:
        """Builds it with a generator network initialised from the context's seed.

        Raises:
            UnknownNameError, ConfigError: there is no such generator, or it cannot make such images.
            ConfigError, TeacherError: feature alignment lacks something.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            generator = generators.build_generator(
                config.generator, parts.teacher.image_shape, config.latent_dim, config.base_channels
            )
        return cls(config, parts, generator, context, device)

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        self._reset_when_due(summary)
        config = self.config
        latents = torch.randn(config.batch_size, config.latent_dim, generator=self.rng)
        targets = self._draw_targets().to(self.device, non_blocking=True)
        self._begin(latents)
        best: _Best | None = None
        for _ in range(config.steps_per_batch):
            self._optimizer.zero_grad(set_to_none=True)
            images, terms = self._terms(targets, summary)
            best = _Best(images.detach(), {name: term.detach() for name, term in terms.items()}).or_better(best)
            terms["loss"].backward()
            if config.meta == "fomaml":
                _add_gradients(self.generator, self._worker)
            self._optimizer.step()
        if config.meta == "reptile":
            _reptile_gradients(self.generator, self._worker)
        if config.meta != "sequential":
            self._meta_optimizer.step()
        self._update_average()
        assert best is not None
        return self._finish(best.images, targets, {}, best.terms)

    def _begin(self, latents: Tensor) -> None:
        """A new batch: these latents, a worker equal to the common generator, and an optimizer without a past; all in place."""
        self._meta_optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self._latents.copy_(latents, non_blocking=True)
            if self._worker is not self.generator:
                mine, theirs = ([*network.parameters(), *network.buffers()] for network in (self._worker, self.generator))
                torch._foreach_copy_(mine, theirs)
            for state in self._optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def task_weights(self, teacher_logits_BK: Tensor, targets_B: Tensor, summary: BufferSummary) -> Tensor | None:
        """phi of SSD-KD Eq. 3; FastDFKD has none."""
        return None

    def task_targets(self, teacher_logits_BK: Tensor, targets_B: Tensor) -> Tensor:
        """The classes in the task loss: FastDFKD's random targets, or those of the pixels by the teacher."""
        return self.task.aims(targets_B, teacher_logits_BK.detach())

    def _terms(self, targets: Tensor, summary: BufferSummary) -> tuple[Tensor, dict[str, Tensor]]:
        """The worker's images of the latents, and their ``loss`` and its terms, scalars."""
        config = self.config
        adversarial = config.adversarial_weight > 0 and summary.num_batches >= self._adversarial_start()
        with precision.autocast(self.device, self.context.bf16):
            images = self._worker(self._latents).float()
            view = augment.random_crop_flip(images, config.crop_padding, config.flip, self.rng)
            with self._reading_layers():
                teacher_logits = self.teacher(view)
            student_logits = self.student(self.teacher.normalize(view)) if adversarial or self._is_gap_aware else None
        batch = self._statistics.batch
        if self._average is not None and config.bn_momentum > 0:
            batch = inversion.smoothed_statistics(batch, self._average, config.bn_momentum)
        terms = {
            "bn_loss": self._bn_loss(teacher_logits, batch),
            "one_hot_loss": self._class_loss(
                teacher_logits,
                student_logits,
                self.task_targets(teacher_logits, targets),
                self.task_weights(teacher_logits, targets, summary),
            ),
        }
        loss = config.bn_weight * terms["bn_loss"] + config.one_hot_weight * terms["one_hot_loss"]
        if adversarial and student_logits is not None:
            terms["adversarial_loss"] = inversion.adversarial_loss(student_logits, teacher_logits)
            loss = loss + config.adversarial_weight * terms["adversarial_loss"]
        loss, terms = self._with_patches(loss, terms)
        loss, terms = self._aligned(loss, terms, images, self.task_targets(teacher_logits, targets))
        return images, {"loss": loss, **terms}

    def _adversarial_start(self) -> int:
        start = self.config.adversarial_start_batches
        return max(0, self.context.warmup_batches - 1) if start is None else start

    def _reset_when_due(self, summary: BufferSummary) -> None:
        due = self.config.reset_batches
        # FastDFKD counts calls from 1 and resets at call warm-up + 120, before which there were that many batches less one.
        due = self.context.warmup_batches + 119 if due is None else due
        if not self._was_reset and summary.num_batches >= due:
            self.generator.reset_first_layer(self.config.reset_bn_weight_mean, self.rng)
            self._was_reset = True

    def _update_average(self) -> None:
        """FastDFKD's BN momentum, once per call, from the last step's raw batch statistics."""
        momentum = self.config.bn_momentum
        batch = [(mean.detach(), variance.detach()) for mean, variance in self._statistics.batch]
        if self._average is not None:
            batch = inversion.smoothed_statistics(batch, self._average, momentum)
        self._average = batch

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "generator": self.generator.state_dict(),
            "meta_optimizer": self._meta_optimizer.state_dict(),
            "average": None if self._average is None else [list(pair) for pair in self._average],
            "was_reset": self._was_reset,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.load_state_dict(state["generator"])
        weight_files.load_optimizer(self._meta_optimizer, state["meta_optimizer"])
        average = state["average"]
        self._average = None if average is None else [(m.to(self.device), v.to(self.device)) for m, v in average]
        self._was_reset = state["was_reset"]


@dataclass(frozen=True)
class _Best:
    """The images of lowest loss so far and their terms, chosen on the device: the host need not know which they are."""

    images: Tensor
    terms: dict[str, Tensor]

    def or_better(self, before: _Best | None) -> _Best:
        """This, if it has a lower loss than the one before, or there is none."""
        if before is None:
            return self
        better = self.terms["loss"] < before.terms["loss"]
        terms = {name: torch.where(better, term, before.terms[name]) for name, term in self.terms.items()}
        return _Best(torch.where(better, self.images, before.images), terms)


def _add_gradients(generator: nn.Module, worker: nn.Module) -> None:
    """First-order MAML: the clone's gradient is the meta-gradient, summed over the steps."""
    for parameter, adapted in zip(generator.parameters(), worker.parameters(), strict=True):
        assert adapted.grad is not None
        if parameter.grad is None:
            parameter.grad = adapted.grad  # the worker's next step has a tensor of its own
        else:
            parameter.grad.add_(adapted.grad)


def _reptile_gradients(generator: nn.Module, worker: nn.Module) -> None:
    """Reptile: the difference between the common generator and the adapted clone is the meta-gradient."""
    for parameter, adapted in zip(generator.parameters(), worker.parameters(), strict=True):
        parameter.grad = REPTILE_SCALE * (parameter.detach() - adapted.detach())


METHOD = Method(
    config=FastConfig,
    build=FastSynthesizer.build,
    title="FastDFKD: a meta-learned generator adapted for a few steps to each batch",
    paper="Fang et al., AAAI 2022",
    needs_batch_norm=True,
    needs_gradient=True,
    figures=LAYER_FIGURES,
)
