"""SSD-KD's synthesis: FastDFKD whose task loss is modulated towards rare classes and hard images.

Liu et al., "Small Scale Data-Free Knowledge Distillation", CVPR 2024, Eqs 1-3. The generator minimises

    bn_weight * L_BN + one_hot_weight * (1/B) sum_i phi(x_i) CE(t_i, y_i) + adversarial_weight * L_adv

with phi of Eq. 3 (``losses.inversion.modulating_weights``). Eq. 2 prints a min-max whose signs, read literally, would let
the generator maximise the BN and task terms; it minimises them here and maximises only the KD term. No official code
exists: steps, rates and BN momentum are FastDFKD's, whose settings the paper says it shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.synthesis.fast import FastConfig, FastSynthesizer
from raydfkd.synthesis.method import Method, Suggestion, TeacherTraits
from raydfkd.synthesis.teacher_inversion import LAYER_FIGURES
from raydfkd.types import BufferSummary

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.losses import inversion
else:
    torch, inversion = deferred("torch"), deferred("raydfkd.losses.inversion")

SMALL_SIDE = 16


class SSDKDConfig(FastConfig):
    """SSD-KD (Liu et al., CVPR 2024): FastDFKD with modulated task loss and prioritized replay."""

    method: Literal["ssdkd"] = "ssdkd"  # type: ignore[assignment]
    """Name of the synthesis method."""
    diversity: bool = True
    """Weigh the task loss by the rarity of the predicted class in the buffer (Eq. 3, first factor)."""
    difficulty: bool = True
    """Weigh the task loss by the teacher's lack of confidence (Eq. 3, second factor)."""
    difficulty_gamma: float = Field(2.0, ge=0)
    """Exponent gamma of the difficulty factor; the paper does not give it, 2 is the focal loss's."""
    difficulty_of: Literal["prediction", "target"] = "prediction"
    """Probability that measures how hard an image is: that of the class the teacher predicts (Eq. 3 read literally), or of
    the class the task loss targets (the focal loss; not the same with random targets)."""
    target: Literal["random", "teacher"] = "random"
    """Class in the task loss: uniform as in FastDFKD, or the teacher's own prediction as Eq. 2's text says. Of pixels it is the
    teacher's in either case."""

    @model_validator(mode="after")
    def _refuse_idle_difficulty(self) -> Self:
        if not self.difficulty:
            self.refuse_idle("difficulty false", "difficulty_gamma", "difficulty_of")
        return self


class SSDKDSynthesizer(FastSynthesizer):
    """FastDFKD with phi; the buffer's class histogram before the insertion is what "rare" means."""

    config: SSDKDConfig

    def task_weights(self, teacher_logits_BK: Tensor, targets_B: Tensor, summary: BufferSummary) -> Tensor | None:
        if not (self.config.diversity or self.config.difficulty):
            return None
        return inversion.modulating_weights(
            teacher_logits_BK,
            # A copy: arrays from an object store are read-only.
            torch.from_numpy(summary.class_counts.copy()).to(self.device, non_blocking=True),
            int(summary.class_counts.sum()),
            diversity=self.config.diversity,
            difficulty=self.config.difficulty,
            gamma=self.config.difficulty_gamma,
            targets_B=self.task_targets(teacher_logits_BK, targets_B) if self.config.difficulty_of == "target" else None,
        )

    def task_targets(self, teacher_logits_BK: Tensor, targets_B: Tensor) -> Tensor:
        if self.config.target == "teacher":
            return teacher_logits_BK.detach().argmax(1)
        return super().task_targets(teacher_logits_BK, targets_B)


def suggest(teacher: TeacherTraits) -> Suggestion | None:
    """For every teacher with a gradient; without BatchNorm, without the loss that reads it."""
    channels, height, width = teacher.image_shape
    if not teacher.input_gradient:
        return None
    side = min(height, width)
    settings: dict[str, Any] = {"crop_padding": side // 8, "flip": channels != 1}
    reasons = {"method": "the teacher has BatchNorm statistics and a gradient: a generator makes images by inverting it"}
    if not teacher.has_batch_norm:
        settings |= {"bn_weight": 0, "balanced_targets": True}
        reasons["method"] = "the teacher has a gradient: a generator makes images of all classes by inverting it"
        reasons["bn_weight"] = "the teacher has no BatchNorm statistics to match"
    if side < SMALL_SIDE:
        settings |= {"steps_per_batch": 5, "base_channels": 32, "latent_dim": 64}
        reasons["base_channels"] = f"a small generator is enough for {height} x {width} pixels"
    rank = 1 if teacher.has_batch_norm or not teacher.takes_colour else 2
    return Suggestion(rank, settings, reasons, sampler={"kind": "prioritized"})


METHOD = Method(
    config=SSDKDConfig,
    build=SSDKDSynthesizer.build,
    title="SSD-KD: FastDFKD with diversity and difficulty modulation, for prioritized replay",
    paper="Liu et al., CVPR 2024",
    needs_batch_norm=True,
    needs_gradient=True,
    figures=LAYER_FIGURES,
    suggest=suggest,
)
