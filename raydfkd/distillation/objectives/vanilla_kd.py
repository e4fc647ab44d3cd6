"""Cross-entropy to the teacher's predicted class plus KL at a temperature (Hinton et al., 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import Objective, ObjectiveConfig, ObjectiveEntry

if TYPE_CHECKING:
    from torch import Tensor

    from raydfkd.losses import distillation, logit_distillation
    from raydfkd.models.network_output import NetworkOutput
else:
    distillation = deferred("raydfkd.losses.distillation")
    logit_distillation = deferred("raydfkd.losses.logit_distillation")


class VanillaKDObjectiveConfig(ObjectiveConfig):
    """Hinton et al. 2015: cross-entropy to the teacher's predicted class plus KL at a temperature."""

    kind: Literal["vanilla_kd"] = "vanilla_kd"
    """Name of the objective."""
    temperature: float = Field(4.0, gt=0)
    """Softening T of the KL term, which is multiplied by T squared."""
    ce_weight: float = Field(0.1, ge=0)
    """Weight of the cross-entropy to the class that the teacher predicts."""
    kl_weight: float = Field(0.9, ge=0)
    """Weight of the KL term."""


class VanillaKDObjective(Objective):
    """w_CE CE + w_KL KL."""

    config: VanillaKDObjectiveConfig

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        hard = logit_distillation.hard_label_loss_per_sample(student.logits, teacher.logits)
        soft = distillation.kd_loss_per_sample(student.logits, teacher.logits, self.config.temperature)
        return self.config.ce_weight * hard + self.config.kl_weight * soft


OBJECTIVE = ObjectiveEntry(
    config=VanillaKDObjectiveConfig,
    objective=VanillaKDObjective,
    title="cross-entropy and KL",
    paper="Hinton et al., 2015",
)
