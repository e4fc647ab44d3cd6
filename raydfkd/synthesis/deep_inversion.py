"""DeepInversion: pixels are optimised, batch by batch, until the teacher's BatchNorm layers take them for its data.

Yin et al., "Dreaming to Distill: Data-Free Knowledge Transfer via DeepInversion", CVPR 2020 (arXiv 1912.08795). Pixels minimise

    bn_weight * L_BN + one_hot_weight * CE(t, y) + tv_weight * L_TV + l2_weight * ||x||_2 + competition_weight * (1 - JS)

seen through random views; the last term, against the student, makes it Adaptive DeepInversion. The defaults are those published
for CIFAR-10; the settings' descriptions give those for ImageNet. The crops are those of SRe2L (Yin et al., NeurIPS 2023) and
their curriculum is CDA's (Yin and Shen, arXiv 2311.18838): the smallest part that a step may show falls from the whole image to
``least_area`` along half a cosine, so that images are drawn from the whole to details.

As published, pixels are optimised in the teacher's normalised units, to which rate and weights refer, from N(0,1), and are
cut to the valid range after each step. Where we deviate: each image has a view of its own, where the published code shifts and
mirrors a whole batch alike; the images of the best step are kept as they were then (the code keeps a reference to the pixels,
which go on changing). ``bn_relative`` is ours: L_BN grows with the teacher's depth by orders of magnitude, so that a published
weight, tuned for one teacher, is wrong for another; relative, L_BN is divided by its value on the first images.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.metrics import Figure
from raydfkd.synthesis.method import Method, SynthesisContext, SynthesisParts
from raydfkd.synthesis.teacher_inversion import InversionConfig, InversionSynthesizer
from raydfkd.types import BufferSummary, SyntheticBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional

    from raydfkd import augment
    from raydfkd.losses import inversion
    from raydfkd.models import precision
    from raydfkd.models.teachers import bn_statistics
else:
    torch, functional = deferred("torch"), deferred("torch.nn.functional")
    augment, inversion = deferred("raydfkd.augment"), deferred("raydfkd.losses.inversion")
    precision = deferred("raydfkd.models.precision")
    bn_statistics = deferred("raydfkd.models.teachers.bn_statistics")


class DeepInversionConfig(InversionConfig):
    """DeepInversion (Yin et al., CVPR 2020): pixels optimised through the teacher, without a generator."""

    method: Literal["deep_inversion"] = "deep_inversion"
    """Name of the synthesis method."""
    steps_per_batch: int = Field(2000, ge=1)
    """Steps of each batch of images (ImageNet: 3000)."""
    half_size_steps: int = Field(0, ge=0)
    """The first of them, in which the teacher sees images averaged over 2 x 2 pixels (ImageNet: 2000)."""
    lr: float = Field(0.05, gt=0)
    """Adam rate of the pixels, in the teacher's normalised units (ImageNet: 0.25)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates (ImageNet: 0.5, 0.9)."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Course of the rate over a batch's steps (ImageNet: cosine)."""
    lr_warmup_steps: int = Field(0, ge=0)
    """Steps in which the rate rises from 0 (ImageNet: 100)."""
    bn_weight: float = Field(10.0, ge=0)
    """Weight of the BatchNorm-statistics loss (ImageNet: 0.01 to 0.05)."""
    bn_relative: bool = False
    """Divide the BatchNorm-statistics loss by its value on the first images, so that a weight suits teachers of any depth."""
    first_bn_weight: float = Field(1.0, gt=0)
    """Weight of the first BatchNorm layer within that loss (ImageNet: 10)."""
    one_hot_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the target class."""
    competition_weight: float = Field(0.0, ge=0)
    """Weight of the disagreement with the student: above 0 it is Adaptive DeepInversion (ImageNet: 0.2)."""
    tv_weight: float = Field(2.5e-5, ge=0)
    """Weight of the total variation (ImageNet: 1e-4)."""
    l2_weight: float = Field(0.0, ge=0)
    """Weight of the mean norm of an image's pixels (ImageNet: 1e-5)."""
    shift: int = Field(2, ge=0)
    """Roll each view by up to so many pixels in each direction (ImageNet: 30)."""
    flip: bool = False
    """Mirror views at random (ImageNet: true)."""
    least_area: float = Field(1.0, gt=0, le=1)
    """Show the teacher a random part, of at least this share, of each image, enlarged to its size (SRe2L: 0.08); 1: none."""
    crop_curriculum: bool = False
    """Let the smallest part fall from the whole image to least_area over a batch's steps (CDA)."""
    kept_step: Literal["best", "last"] = "best"
    """The step whose images are kept: the one of lowest loss, or the last (SRe2L and CDA, whose losses are of random parts)."""

    @model_validator(mode="after")
    def _refuse_ignored(self) -> Self:
        if self.bn_weight == 0:
            self.refuse_idle("bn_weight 0", "bn_relative", "first_bn_weight")
        if self.least_area == 1:
            self.refuse_idle("least_area 1", "crop_curriculum")
        if self.half_size_steps >= self.steps_per_batch:
            raise ValueError(
                f"half_size_steps {self.half_size_steps} leaves no step of steps_per_batch {self.steps_per_batch} in full "
                "size: lower it"
            )
        if self.crop_curriculum and self.kept_step == "best":
            raise ValueError(
                "crop_curriculum makes early steps easier, which kept_step best would always keep: choose kept_step last"
            )
        return self

    def images_trained_on(self, batches: int) -> int:
        return self.with_alignment(batches * self.steps_per_batch * self.batch_size)

    @property
    def reads_batch_norm(self) -> bool:
        return self.bn_weight > 0

    def rate(self, step: int) -> float:
        """Share of ``lr`` in force at a step of a batch, counted from 0."""
        if step < self.lr_warmup_steps:
            return (step + 1) / self.lr_warmup_steps
        if self.lr_schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - self.lr_warmup_steps) / (self.steps_per_batch - self.lr_warmup_steps)))

    def smallest_part(self, step: int) -> float:
        """Least share of an image's area that a view of this step shows."""
        if not self.crop_curriculum:
            return self.least_area
        return self.least_area + (1 - self.least_area) * 0.5 * (1 + math.cos(math.pi * step / self.steps_per_batch))


class DeepInversionSynthesizer(InversionSynthesizer):
    """Nothing lasts from batch to batch but the draws and, with ``bn_relative``, the scale of L_BN.

    Args:
        config: the method's settings.
        parts: see ``InversionSynthesizer``.
        context: see ``SynthesisContext``.
        device: where all of it runs.
    """

    config: DeepInversionConfig

    def __init__(
        self, config: DeepInversionConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device
    ) -> None:
        super().__init__(config, parts, context, device)
        self._statistics = bn_statistics.BatchNormStatistics(self.teacher, required=config.reads_batch_norm)
        self._mean = self.teacher.normalization.mean.view(-1, 1, 1)
        self._std = self.teacher.normalization.std.view(-1, 1, 1)
        self.bn_scale: float | None = None if config.bn_relative else 1.0

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        config = self.config
        shape = (config.batch_size, *self.teacher.image_shape)
        pixels = torch.randn(shape, generator=self.rng).to(self.device).requires_grad_()
        targets = self.task.draw_targets(config.batch_size, self.rng).to(self.device)
        optimizer = torch.optim.Adam([pixels], config.lr, config.betas)
        best_loss, kept, metrics = float("inf"), None, {}
        for step in range(config.steps_per_batch):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * config.rate(step)
            optimizer.zero_grad(set_to_none=True)
            images, loss, terms = self._loss(pixels, targets, step)
            value = float(loss.detach())
            if kept is None or config.kept_step == "last" or value < best_loss:
                best_loss, kept, metrics = value, images.detach(), terms
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                torch.clamp_(pixels, -self._mean / self._std, (1 - self._mean) / self._std)
        if config.kept_step == "last":
            kept = self._images(pixels.detach())
        assert kept is not None
        return self._finish(kept, targets, {"loss": best_loss, **metrics})

    def _images(self, pixels: Tensor) -> Tensor:
        """From normalised units to [0,1]."""
        return (pixels * self._std + self._mean).contiguous(memory_format=torch.channels_last)

    def _loss(self, pixels: Tensor, targets: Tensor, step: int) -> tuple[Tensor, Tensor, dict[str, float]]:
        """Images in [0,1], the loss, and its terms."""
        config = self.config
        images = self._images(pixels)
        view = self._view(images, step)
        with precision.autocast(self.device, self.context.bf16):
            with self._statistics.capture():
                teacher_logits = self.teacher(view)
            student_logits = self.student(self.teacher.normalize(view)) if config.competition_weight > 0 else None
        aims = self.task.aims(targets, teacher_logits.detach())
        terms = {
            "bn_loss": self._bn_loss(teacher_logits),
            "one_hot_loss": inversion.one_hot_loss(teacher_logits, aims),
            "tv_loss": inversion.total_variation(pixels),
            "l2_loss": torch.linalg.vector_norm(pixels.flatten(1), dim=1).mean(),
        }
        loss = config.bn_weight * terms["bn_loss"] + config.one_hot_weight * terms["one_hot_loss"]
        loss = loss + config.tv_weight * terms["tv_loss"] + config.l2_weight * terms["l2_loss"]
        if student_logits is not None:
            terms["competition_loss"] = inversion.disagreement_loss(student_logits, teacher_logits)
            loss = loss + config.competition_weight * terms["competition_loss"]
        loss, terms = self._aligned(loss, terms, images, aims)
        return images, loss, {name: float(term.detach()) for name, term in terms.items()} | {"bn_scale": self.bn_scale or 1.0}

    def _view(self, images: Tensor, step: int) -> Tensor:
        config = self.config
        view = augment.random_roll_flip(images, config.shift, config.flip, self.rng)
        if config.least_area < 1:
            view = augment.random_resized_crop_flip(view, config.smallest_part(step), False, self.rng)
        return functional.avg_pool2d(view, 2) if step < config.half_size_steps else view

    def _bn_loss(self, teacher_logits: Tensor) -> Tensor:
        batch = self._statistics.batch
        if not batch:
            return teacher_logits.new_zeros(())
        loss = inversion.bn_loss(batch, self._statistics.running, self.config.first_bn_weight)
        if self.bn_scale is None:
            self.bn_scale = 1 / float(loss.detach())
        return self.bn_scale * loss

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"bn_scale": self.bn_scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.bn_scale = state["bn_scale"]


METHOD = Method(
    config=DeepInversionConfig,
    build=DeepInversionSynthesizer,
    title="DeepInversion: pixels optimised through the teacher, adaptive with competition_weight",
    paper="Yin et al., CVPR 2020",
    needs_batch_norm=True,
    needs_gradient=True,
    figures=(Figure("Scale of the BatchNorm-statistics loss", {"bn_scale": "scale"}),),
)
