"""CC: the errors of neighbours in a batch should not correlate (Peng et al., ICCV 2019, in RepDistiller's form)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import Objective, ObjectiveConfig, ObjectiveContext, ObjectiveEntry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raydfkd.losses import feature_distillation, logit_distillation
    from raydfkd.models.network_output import FeatureShapes, NetworkOutput
else:
    nn = deferred("torch.nn")
    feature_distillation = deferred("raydfkd.losses.feature_distillation")
    logit_distillation = deferred("raydfkd.losses.logit_distillation")


class CorrelationObjectiveConfig(ObjectiveConfig):
    """CC (Peng et al., ICCV 2019) in RepDistiller's form: the errors of neighbours in a batch should not correlate."""

    kind: Literal["correlation"] = "correlation"
    """Name of the objective."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher predicts."""
    correlation_weight: float = Field(0.02, ge=0)
    """Weight of the correlation term."""
    embedding_dim: int = Field(128, ge=1)
    """Width to which both networks' pooled features are projected."""


class CorrelationObjective(Objective):
    """w_CE CE + w CC on linear embeddings of both networks' pooled features (RepDistiller's form, which trains both).

    The paper's loss has a KL term besides; RepDistiller's published run gives it no weight, and neither do we. A pair of
    neighbours counts half for each of its two samples.

    Neighbours are those in one forward pass: of one worker's part of one accumulation part of the batch.
    """

    needs = frozenset({"embedding"})
    teacher_needs = frozenset({"embedding"})
    config: CorrelationObjectiveConfig

    def __init__(self, config: CorrelationObjectiveConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        self.trained["student_embedding"] = nn.Linear(_width(context.student_shapes), config.embedding_dim)
        self.trained["teacher_embedding"] = nn.Linear(_width(context.teacher_shapes), config.embedding_dim)

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        hard = logit_distillation.hard_label_loss_per_sample(student.logits, teacher.logits)
        relation = feature_distillation.correlation_loss_per_sample(
            self.trained["student_embedding"](student.embedding), self.trained["teacher_embedding"](teacher.embedding)
        )
        return self.config.ce_weight * hard + self.config.correlation_weight * relation


def _width(shapes: FeatureShapes) -> int:
    assert shapes.embedding is not None
    return shapes.embedding


OBJECTIVE = ObjectiveEntry(
    config=CorrelationObjectiveConfig,
    objective=CorrelationObjective,
    title="CC: correlation congruence",
    paper="Peng et al., ICCV 2019",
)
