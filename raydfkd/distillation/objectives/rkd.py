"""RKD: the student keeps the teacher's distances and angles between the samples of a batch (Park et al., CVPR 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import Objective, ObjectiveConfig, ObjectiveEntry

if TYPE_CHECKING:
    from torch import Tensor

    from raydfkd.losses import feature_distillation, logit_distillation
    from raydfkd.models.network_output import NetworkOutput
else:
    feature_distillation = deferred("raydfkd.losses.feature_distillation")
    logit_distillation = deferred("raydfkd.losses.logit_distillation")


class RKDObjectiveConfig(ObjectiveConfig):
    """RKD (Park et al., CVPR 2019): distances and angles between the pooled features of a batch."""

    kind: Literal["rkd"] = "rkd"
    """Name of the objective."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher predicts."""
    distance_weight: float = Field(25.0, ge=0)
    """Weight of the distances' term."""
    angle_weight: float = Field(50.0, ge=0)
    """Weight of the angles' term."""


class RKDObjective(Objective):
    """w_CE CE + w_D RKD-D + w_A RKD-A on pooled features.

    A sample has the distances that start at it and the angles whose vertex it is.

    Pairs and triplets are of the samples in one forward pass: one worker's part of one accumulation part of the batch. More
    workers or parts mean fewer of them, and distances divided by the mean of that part alone.
    """

    needs = frozenset({"embedding"})
    teacher_needs = frozenset({"embedding"})
    config: RKDObjectiveConfig

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        assert student.embedding is not None
        assert teacher.embedding is not None
        config, features = self.config, (student.embedding, teacher.embedding)
        losses = config.ce_weight * logit_distillation.hard_label_loss_per_sample(student.logits, teacher.logits)
        if config.distance_weight > 0:
            losses = losses + config.distance_weight * feature_distillation.relational_distance_loss_per_sample(*features)
        if config.angle_weight > 0:
            losses = losses + config.angle_weight * feature_distillation.relational_angle_loss_per_sample(*features)
        return losses


OBJECTIVE = ObjectiveEntry(
    config=RKDObjectiveConfig,
    objective=RKDObjective,
    title="RKD: distances and angles in a batch",
    paper="Park et al., CVPR 2019",
)
