"""Objectives about how the samples of a batch lie to one another in feature space: CC and RKD."""

from __future__ import annotations

from torch import Tensor, nn

from raydfkd.distillation.objectives.base import FeatureShapes, NetworkOutput, Objective, ObjectiveContext
from raydfkd.distillation.objectives.config import CorrelationObjectiveConfig, RKDObjectiveConfig
from raydfkd.losses.feature_distillation import (
    correlation_loss_per_sample,
    relational_angle_loss_per_sample,
    relational_distance_loss_per_sample,
)
from raydfkd.losses.logit_distillation import hard_label_loss_per_sample


class CorrelationObjective(Objective):
    """w_CE CE + w CC on linear embeddings of both networks' pooled features (RepDistiller's form, which trains both).

    The paper's loss has a KL term besides; RepDistiller's published run gives it no weight, and neither do we. A pair of
    neighbours counts half for each of its two samples.
    """

    needs = frozenset({"embedding"})
    teacher_needs = frozenset({"embedding"})
    config: CorrelationObjectiveConfig

    def __init__(self, config: CorrelationObjectiveConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        self.student_embedding = nn.Linear(_width(context.student_shapes), config.embedding_dim)
        self.teacher_embedding = nn.Linear(_width(context.teacher_shapes), config.embedding_dim)

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        assert student.embedding is not None
        assert teacher.embedding is not None
        hard = hard_label_loss_per_sample(student.logits, teacher.logits)
        relation = correlation_loss_per_sample(
            self.student_embedding(student.embedding.float()), self.teacher_embedding(teacher.embedding.float())
        )
        return self.config.ce_weight * hard + self.config.correlation_weight * relation


class RKDObjective(Objective):
    """w_CE CE + w_D RKD-D + w_A RKD-A on pooled features.

    A sample has the distances that start at it and the angles whose vertex it is.
    """

    needs = frozenset({"embedding"})
    teacher_needs = frozenset({"embedding"})
    config: RKDObjectiveConfig

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        assert student.embedding is not None
        assert teacher.embedding is not None
        config = self.config
        losses = config.ce_weight * hard_label_loss_per_sample(student.logits, teacher.logits)
        if config.distance_weight > 0:
            losses = losses + config.distance_weight * relational_distance_loss_per_sample(student.embedding, teacher.embedding)
        if config.angle_weight > 0:
            losses = losses + config.angle_weight * relational_angle_loss_per_sample(student.embedding, teacher.embedding)
        return losses


def _width(shapes: FeatureShapes) -> int:
    assert shapes.embedding is not None
    return shapes.embedding
