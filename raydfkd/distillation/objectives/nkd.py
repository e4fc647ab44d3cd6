"""NKD: the teacher's class weighted by its probability, the other classes renormalised (Yang et al., ICCV 2023)."""

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


class NKDObjectiveConfig(ObjectiveConfig):
    """NKD (Yang et al., ICCV 2023): the teacher's class weighted by its probability, the others renormalised."""

    kind: Literal["nkd"] = "nkd"
    """Name of the objective."""
    temperature: float = Field(1.0, gt=0)
    """Softening T of the other classes' part, which is multiplied by T squared."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher predicts."""
    non_target_weight: float = Field(1.5, ge=0)
    """Weight of the other classes' part (gamma)."""


class NKDObjective(Objective):
    """w_CE CE + NKD.

    Raises:
        ConfigError: there is one class only.
    """

    config: NKDObjectiveConfig

    def __init__(self, config: NKDObjectiveConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        require_classes(context, config.kind)

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        config = self.config
        hard = logit_distillation.hard_label_loss_per_sample(student.logits, teacher.logits)
        soft = logit_distillation.normalized_kd_per_sample(
            student.logits, teacher.logits, config.temperature, config.non_target_weight
        )
        return config.ce_weight * hard + soft


OBJECTIVE = ObjectiveEntry(
    config=NKDObjectiveConfig,
    objective=NKDObjective,
    title="NKD: normalised KD",
    paper="Yang et al., ICCV 2023",
)
