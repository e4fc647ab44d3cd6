"""DKD: KL split into the teacher's class and the other classes, weighted independently (Zhao et al., CVPR 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import (
    Objective,
    ObjectiveConfig,
    ObjectiveContext,
    ObjectiveEntry,
    require_classes,
)

if TYPE_CHECKING:
    from torch import Tensor

    from raydfkd.losses import logit_distillation
    from raydfkd.models.network_output import NetworkOutput
else:
    logit_distillation = deferred("raydfkd.losses.logit_distillation")

WARMUP_FRACTION = 20 / 240
"""20 of the published run's 240 epochs."""


class DKDObjectiveConfig(ObjectiveConfig):
    """DKD (Zhao et al., CVPR 2022): KL split into the teacher's class and the other classes, weighted independently."""

    kind: Literal["dkd"] = "dkd"
    """Name of the objective."""
    temperature: float = Field(4.0, gt=0)
    """Softening T; both parts are multiplied by T squared."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher predicts."""
    target_weight: float = Field(1.0, ge=0)
    """Weight of the part about the teacher's class (alpha)."""
    non_target_weight: float = Field(8.0, ge=0)
    """Weight of the part about the other classes (beta; 6 for VGG)."""
    warmup_fraction: float = Field(WARMUP_FRACTION, ge=0, le=1)
    """Share of the training over which both parts grow linearly to their weights."""


class DKDObjective(Objective):
    """w_CE CE + min(progress / warm-up, 1) (alpha TCKD + beta NCKD).

    The published warm-up counts epochs; there are none here, so it is a share of the training.

    Raises:
        ConfigError: there is one class only.
    """

    config: DKDObjectiveConfig

    def __init__(self, config: DKDObjectiveConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        require_classes(context, config.kind)

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        config = self.config
        hard = logit_distillation.hard_label_loss_per_sample(student.logits, teacher.logits)
        target, non_target = logit_distillation.decoupled_kd_per_sample(student.logits, teacher.logits, config.temperature)
        done = 1.0 if config.warmup_fraction == 0 else progress / config.warmup_fraction
        ramp = min(done, 1.0) if isinstance(done, float) else done.clamp(max=1.0)
        return config.ce_weight * hard + ramp * (config.target_weight * target + config.non_target_weight * non_target)


OBJECTIVE = ObjectiveEntry(
    config=DKDObjectiveConfig,
    objective=DKDObjective,
    title="DKD: decoupled KL",
    paper="Zhao et al., CVPR 2022",
)
