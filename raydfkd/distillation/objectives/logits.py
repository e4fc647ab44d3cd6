"""Objectives that read nothing but logits."""

from __future__ import annotations

from torch import Tensor

from raydfkd.distillation.objectives.base import NetworkOutput, Objective, ObjectiveContext, require_classes
from raydfkd.distillation.objectives.config import (
    DKDObjectiveConfig,
    KLObjectiveConfig,
    NKDObjectiveConfig,
    VanillaKDObjectiveConfig,
)
from raydfkd.losses.distillation import kd_loss_per_sample
from raydfkd.losses.logit_distillation import (
    decoupled_kd_per_sample,
    hard_label_loss_per_sample,
    normalized_kd_per_sample,
    smoothed_label_kl_per_sample,
)


class KLObjective(Objective):
    """KL alone: from the teacher's probabilities, or from its choice, smoothed or not."""

    config: KLObjectiveConfig

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        smoothing = self.config.hard_label_smoothing
        if smoothing is None:
            return kd_loss_per_sample(student.logits, teacher.logits, self.config.temperature)
        return smoothed_label_kl_per_sample(student.logits, teacher.logits, smoothing)


class VanillaKDObjective(Objective):
    """w_CE CE + w_KL KL."""

    config: VanillaKDObjectiveConfig

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        hard = hard_label_loss_per_sample(student.logits, teacher.logits)
        soft = kd_loss_per_sample(student.logits, teacher.logits, self.config.temperature)
        return self.config.ce_weight * hard + self.config.kl_weight * soft


class DKDObjective(Objective):
    """w_CE CE + min(progress / warm-up, 1) (alpha TCKD + beta NCKD).

    The published warm-up counts epochs; there are none here, so it is a share of the training.
    """

    config: DKDObjectiveConfig

    def __init__(self, config: DKDObjectiveConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        require_classes(context, config.kind)

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        config = self.config
        hard = hard_label_loss_per_sample(student.logits, teacher.logits)
        target, non_target = decoupled_kd_per_sample(student.logits, teacher.logits, config.temperature)
        ramp = 1.0 if config.warmup_fraction == 0 else min(progress / config.warmup_fraction, 1.0)
        return config.ce_weight * hard + ramp * (config.target_weight * target + config.non_target_weight * non_target)


class NKDObjective(Objective):
    """w_CE CE + NKD."""

    config: NKDObjectiveConfig

    def __init__(self, config: NKDObjectiveConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        require_classes(context, config.kind)

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        config = self.config
        hard = hard_label_loss_per_sample(student.logits, teacher.logits)
        soft = normalized_kd_per_sample(student.logits, teacher.logits, config.temperature, config.non_target_weight)
        return config.ce_weight * hard + soft
