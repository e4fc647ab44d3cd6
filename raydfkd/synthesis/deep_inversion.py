"""DeepInversion: pixels are optimised, batch by batch, until the teacher's BatchNorm layers take them for its data.

Yin et al., "Dreaming to Distill: Data-Free Knowledge Transfer via DeepInversion", CVPR 2020 (arXiv 1912.08795). Pixels minimise

    bn_weight * L_BN + one_hot_weight * CE(t, y) + tv_weight * L_TV + l2_weight * ||x||_2 + competition_weight * (1 - JS)

seen through random views; the last term, against the student, makes it Adaptive DeepInversion. The defaults are those published
for CIFAR-10; the presets are those for ImageNet, plain and adaptive, those of the re-implementations that later papers compare
with (Fang et al., IJCAI 2021 and AAAI 2022, on CIFAR), and those of SRe2L and CDA. With ``half_size_steps`` there are two
stages, as published: in the first the teacher and the losses of pixels see the images at half their size. Each has an Adam
and a course of the rate of its own. The crops are those of SRe2L (Yin et al., NeurIPS 2023) and their curriculum is CDA's (Yin
and Shen, arXiv 2311.18838): the smallest part that a step may show falls from the whole image to ``least_area`` along half a
cosine, so that images are drawn from the whole to details. The change of colours is that of Plug-In Inversion (Ghiasi et al.,
ICML 2022), which inverts networks of any kind without a loss on their layers.

As published, pixels are optimised in the teacher's normalised units, to which rate and weights refer, from N(0,1), and are
cut to the valid range after each step. Where we deviate: each image has a view of its own, where the published code shifts and
mirrors a whole batch alike; the images of the best step are kept as they were then (the code keeps a reference to the pixels,
which go on changing).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.synthesis.method import Method, Presets, Suggestion, SynthesisContext, SynthesisParts, TeacherTraits
from raydfkd.synthesis.teacher_inversion import LAYER_FIGURES, TargetedConfig, TargetedSynthesizer
from raydfkd.types import BufferSummary, SyntheticBatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional

    from raydfkd import augment
    from raydfkd.losses import inversion
    from raydfkd.models import precision
else:
    torch, functional = deferred("torch"), deferred("torch.nn.functional")
    augment, inversion = deferred("raydfkd.augment"), deferred("raydfkd.losses.inversion")
    precision = deferred("raydfkd.models.precision")

FEW_STEPS, MANY_STEPS, LARGE_SIDE = 200, 1000, 64
"""Suggested steps a batch, below so many pixels and from there on; the papers' 2000 to 4000 make few images in an hour."""


_IMAGENET: dict[str, Any] = {
    "batch_size": 84,
    "steps_per_batch": 3000,
    "half_size_steps": 2000,
    "lr": 0.25,
    "betas": (0.5, 0.9),
    "lr_schedule": "cosine",
    "lr_warmup_steps": 100,
    "bn_weight": 0.01,
    "first_bn_weight": 10.0,
    "tv_weight": 1e-4,
    "l2_weight": 1e-5,
    "shift": 30,
    "flip": True,
}
_FANG: dict[str, Any] = {
    "steps_per_batch": 1000,
    "lr": 0.1,
    "betas": (0.5, 0.99),
    "competition_weight": 1.0,
    "shift": 4,
    "flip": True,
}
_SRE2L: dict[str, Any] = {
    "batch_size": 100,
    "steps_per_batch": 4000,
    "lr": 0.25,
    "betas": (0.5, 0.9),
    "lr_schedule": "cosine",
    "bn_weight": 0.01,
    "first_bn_weight": 10.0,
    "tv_weight": 0.0,
    "shift": 32,
    "flip": True,
    "least_area": 0.08,
    "kept_step": "last",
}


class DeepInversionConfig(TargetedConfig):
    """DeepInversion (Yin et al., CVPR 2020): pixels optimised through the teacher, without a generator."""

    presets: ClassVar[Presets] = {
        "imagenet": _IMAGENET,
        "imagenet_adaptive": {**_IMAGENET, "competition_weight": 0.2},
        "fang2021": {**_FANG, "tv_weight": 1e-3},
        "fang2022": {**_FANG, "tv_weight": 0.0},
        "sre2l": _SRE2L,
        "cda": {**_SRE2L, "crop_curriculum": True},
        "cda_tiny_imagenet": {**_SRE2L, "crop_curriculum": True, "lr": 0.4, "bn_weight": 0.05},
    }

    method: Literal["deep_inversion"] = "deep_inversion"
    """Name of the synthesis method."""
    preset: Literal["imagenet", "imagenet_adaptive", "fang2021", "fang2022", "sre2l", "cda", "cda_tiny_imagenet"] | None = None
    """Published settings, for what is not given here; the defaults are CIFAR-10's."""
    steps_per_batch: int = Field(2000, ge=1)
    """Steps of each batch of images (ImageNet: 3000)."""
    half_size_steps: int = Field(0, ge=0)
    """The first of them, in which the teacher sees images averaged over 2 x 2 pixels, a stage of its own (ImageNet: 2000)."""
    lr: float = Field(0.05, gt=0)
    """Adam rate of the pixels, in the teacher's normalised units (ImageNet: 0.25)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates (ImageNet: 0.5, 0.9)."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Course of the rate over a stage's steps (ImageNet: cosine)."""
    lr_warmup_steps: int = Field(0, ge=0)
    """Steps of a stage in which the rate rises from 0 (ImageNet: 100)."""
    bn_weight: float = Field(10.0, ge=0)
    """Weight of the BatchNorm-statistics loss (ImageNet: 0.01 to 0.05)."""
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
    color_shift: float = Field(0.0, ge=0)
    """Multiply each channel of a view by e^u and add v, u and v uniform within plus and minus this, in the teacher's normalised
    units (Plug-In Inversion: 1); 0: no change of colours."""
    crop_curriculum: bool = False
    """Let the smallest part fall from the whole image to least_area over a batch's steps (CDA)."""
    kept_step: Literal["best", "last"] = "best"
    """The step whose images are kept: the one of lowest loss, or the last (SRe2L and CDA, whose losses are of random parts)."""

    @model_validator(mode="after")
    def _refuse_ignored(self) -> Self:
        if self.bn_weight == 0:
            self.refuse_idle("bn_weight 0", "first_bn_weight")
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

    def rate(self, step: int) -> float:
        """Share of ``lr`` in force at a step of a batch, counted from 0."""
        steps = self.half_size_steps
        if step >= self.half_size_steps:
            step, steps = step - self.half_size_steps, self.steps_per_batch - self.half_size_steps
        if step < self.lr_warmup_steps:
            return (step + 1) / self.lr_warmup_steps
        if self.lr_schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - self.lr_warmup_steps) / (steps - self.lr_warmup_steps)))

    def smallest_part(self, step: int) -> float:
        """Least share of an image's area that a view of this step shows."""
        if not self.crop_curriculum:
            return self.least_area
        return self.least_area + (1 - self.least_area) * 0.5 * (1 + math.cos(math.pi * step / self.steps_per_batch))


class DeepInversionSynthesizer(TargetedSynthesizer):
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
        self._mean = self.teacher.normalization.mean.view(-1, 1, 1)
        self._std = self.teacher.normalization.std.view(-1, 1, 1)

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        config = self.config
        shape = (config.batch_size, *self.teacher.image_shape)
        pixels = torch.randn(shape, generator=self.rng).to(self.device).requires_grad_()
        targets = self._draw_targets().to(self.device)
        optimizer = torch.optim.Adam([pixels], config.lr, config.betas)
        best_loss, kept, metrics = float("inf"), None, {}
        for step in range(config.steps_per_batch):
            if step == config.half_size_steps:  # the first of the stage in full size, whose losses are others
                optimizer, best_loss = torch.optim.Adam([pixels], config.lr, config.betas), float("inf")
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
        competing = config.competition_weight > 0
        images, seen = self._images(pixels), pixels
        shown, shift = images, config.shift
        if step < config.half_size_steps:
            shown, seen, shift = functional.avg_pool2d(images, 2), functional.avg_pool2d(pixels, 2), config.shift // 2
        view = self._view(shown, shift, step)
        with precision.autocast(self.device, self.context.bf16):
            with self._reading_layers():
                teacher_logits = self.teacher(view)
            student_logits = self.student(self.teacher.normalize(view)) if competing or self._is_gap_aware else None
        aims = self.task.aims(targets, teacher_logits.detach())
        terms = {
            "bn_loss": self._bn_loss(teacher_logits, first_weight=config.first_bn_weight),
            "one_hot_loss": self._class_loss(teacher_logits, student_logits, aims),
            "tv_loss": inversion.total_variation(seen),
            "l2_loss": torch.linalg.vector_norm(seen.flatten(1), dim=1).mean(),
        }
        loss = config.bn_weight * terms["bn_loss"] + config.one_hot_weight * terms["one_hot_loss"]
        loss = loss + config.tv_weight * terms["tv_loss"] + config.l2_weight * terms["l2_loss"]
        if competing and student_logits is not None:
            terms["competition_loss"] = inversion.disagreement_loss(student_logits, teacher_logits)
            loss = loss + config.competition_weight * terms["competition_loss"]
        loss, terms = self._with_patches(loss, terms)
        loss, terms = self._aligned(loss, terms, images, aims)
        return images, loss, {name: float(term.detach()) for name, term in terms.items()}

    def _view(self, images: Tensor, shift: int, step: int) -> Tensor:
        config = self.config
        view = augment.random_roll_flip(images, shift, config.flip, self.rng)
        if config.least_area < 1:
            view = augment.random_resized_crop_flip(view, config.smallest_part(step), False, self.rng)
        return self._recoloured(view) if config.color_shift > 0 else view

    def _recoloured(self, view: Tensor) -> Tensor:
        """Images in [0,1] with their channels scaled and moved, each image by draws of its own."""
        draws = torch.rand(2, *view.shape[:2], 1, 1, generator=self.rng).to(self.device)
        log_scale, offset = self.config.color_shift * (2 * draws - 1)
        return (view - self._mean) * log_scale.exp() + self._mean + offset * self._std


def suggest(teacher: TeacherTraits) -> Suggestion | None:
    """For every teacher with a gradient; without BatchNorm, by classes, smoothness and shifted views alone.

    The latter's rate and weights are those of sparse model inversion (Hu et al., ICML 2024), whose vision transformers have no
    BatchNorm; a transformer's patches are told apart besides, as in PSAQ-ViT.
    """
    channels, height, width = teacher.image_shape
    if not teacher.input_gradient:
        return None
    settings: dict[str, Any] = {
        "steps_per_batch": FEW_STEPS if min(height, width) < LARGE_SIDE else MANY_STEPS,
        "shift": min(height, width) // 8,
        "flip": channels != 1,
        "balanced_targets": True,
    }
    reasons = {"method": "the teacher has BatchNorm statistics and a gradient: pixels are optimised until they are as its data"}
    if teacher.has_batch_norm:
        settings |= {"lr": 0.1, "bn_relative": True, "competition_weight": 1}
        reasons["bn_relative"] = "so that the weight suits a teacher of this depth"
        return Suggestion(2, settings, reasons)
    settings |= {"lr": 0.25, "betas": [0.5, 0.99], "bn_weight": 0, "tv_weight": 1e-4}
    reasons["method"] = "the teacher has a gradient: pixels are optimised until it sees the class that each is to show"
    reasons["bn_weight"] = "the teacher has no BatchNorm statistics to match"
    if teacher.has_attention:
        settings["patch_weight"] = 1
        reasons["patch_weight"] = "the teacher's attention layers tell how alike an image's patches are"
    return Suggestion(4, settings, reasons, student={"augmentation": {"level": "standard", "mixup": "batch"}})


METHOD = Method(
    config=DeepInversionConfig,
    build=DeepInversionSynthesizer,
    title="DeepInversion: pixels optimised through the teacher, adaptive with competition_weight",
    paper="Yin et al., CVPR 2020",
    needs_batch_norm=True,
    needs_gradient=True,
    figures=LAYER_FIGURES,
    suggest=suggest,
)
