"""ZSKT's student: KL and attention transfer, for a teacher and a student of one family (Micaelli and Storkey, NeurIPS 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import Objective, ObjectiveConfig, ObjectiveContext, ObjectiveEntry, stage_shapes
from raydfkd.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.losses import distillation, feature_distillation
    from raydfkd.models.network_output import NetworkOutput
else:
    torch = deferred("torch")
    distillation = deferred("raydfkd.losses.distillation")
    feature_distillation = deferred("raydfkd.losses.feature_distillation")


class AttentionTransferConfig(ObjectiveConfig):
    """KL and attention transfer, as ZSKT's student learns (Micaelli and Storkey, NeurIPS 2019)."""

    kind: Literal["attention_transfer"] = "attention_transfer"
    """Name of the objective."""
    temperature: float = Field(1.0, gt=0)
    """Softening T of the KL term, which is multiplied by T squared."""
    attention_weight: float = Field(250.0, ge=0)
    """Weight of the attention maps' term."""


class AttentionTransferObjective(Objective):
    """KL / K + w sum_stages AT, the stages being all maps but the stem's.

    The KL is divided by the number K of classes: the published code averages it over all elements, and w is tuned for that.
    One deviation: of a network whose last stage is normalised once more before it is pooled (WRN), the map is what is pooled,
    after that, and the published code's is the one before it.

    Raises:
        ConfigError: the networks are not of one family: they have other numbers of stages, or of other resolutions.
    """

    needs = frozenset({"maps"})
    teacher_needs = frozenset({"maps"})
    config: AttentionTransferConfig

    def __init__(self, config: AttentionTransferConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        sizes = {
            name: [f"{height}x{width}" for _, height, width in stage_shapes(shapes, name, config.kind)]
            for name, shapes in (("student", context.student_shapes), ("teacher", context.teacher_shapes))
        }
        if sizes["student"] != sizes["teacher"]:
            raise ConfigError(
                "objective 'attention_transfer' is for networks of one family, and the stages of the student are of "
                f"{', '.join(sizes['student'])} pixels, those of the teacher of {', '.join(sizes['teacher'])}: choose a "
                "student of the teacher's family, or objective kl with temperature 1, ZSKT's for other pairs"
            )

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        config = self.config
        soft = distillation.kd_loss_per_sample(student.logits, teacher.logits, config.temperature) / student.logits.shape[1]
        attention = torch.stack(
            [
                feature_distillation.attention_transfer_loss_per_sample(*maps)
                for maps in zip(student.maps[1:], teacher.maps[1:], strict=True)
            ]
        ).sum(0)
        return soft + config.attention_weight * attention


OBJECTIVE = ObjectiveEntry(
    config=AttentionTransferConfig,
    objective=AttentionTransferObjective,
    title="ZSKT's: KL and attention transfer",
    paper="Micaelli and Storkey, NeurIPS 2019",
)
