"""Mean distance of the student's logits from the teacher's (DFAD, Fang et al., 2019; PRE-DFKD, Binici et al., AAAI 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import Objective, ObjectiveConfig, ObjectiveEntry

if TYPE_CHECKING:
    from torch import Tensor

    from raydfkd.losses import logit_distillation
    from raydfkd.models.network_output import NetworkOutput
else:
    logit_distillation = deferred("raydfkd.losses.logit_distillation")


class L1ObjectiveConfig(ObjectiveConfig):
    """|t - s|, the mean over all logits."""

    kind: Literal["l1"] = "l1"
    """Name of the objective."""


class L1Objective(Objective):
    """L1 alone."""

    config: L1ObjectiveConfig

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        return logit_distillation.l1_per_sample(student.logits, teacher.logits)


OBJECTIVE = ObjectiveEntry(
    config=L1ObjectiveConfig,
    objective=L1Objective,
    title="L1 between logits",
    paper="Fang et al., 2019",
)
