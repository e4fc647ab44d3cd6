"""CAT-KD: the student's class-activation maps become the teacher's (Guo et al., CVPR 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import Objective, ObjectiveConfig, ObjectiveContext, ObjectiveEntry, require_pooled_head

if TYPE_CHECKING:
    from torch import Tensor

    from raydfkd.losses import feature_distillation, logit_distillation
    from raydfkd.models.network_output import NetworkOutput
else:
    feature_distillation = deferred("raydfkd.losses.feature_distillation")
    logit_distillation = deferred("raydfkd.losses.logit_distillation")


class CATKDObjectiveConfig(ObjectiveConfig):
    """CAT-KD (Guo et al., CVPR 2023): the class-activation maps of the last stage."""

    kind: Literal["cat_kd"] = "cat_kd"
    """Name of the objective."""
    ce_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher predicts."""
    map_weight: float = Field(400.0, ge=0)
    """Weight of the maps' term; published values differ by pair, and are about 1 to 5 if maps are not normalised."""
    normalize: bool = True
    """Scale each class's pooled map to length 1 first."""
    resolution: int = Field(2, ge=1)
    """Side in pixels to which maps are pooled first (4 on ImageNet)."""


class CATKDObjective(Objective):
    """w_CE CE + w MSE(class-activation maps), pooled and, by default, each of length 1.

    A map is the linear head applied at each pixel of the last stage. Ours leaves out the head's bias, which adds the same
    number to every pixel of a class; the published code exchanges the head for a 1x1 convolution.

    Raises:
        ConfigError: a network has more between its last map and its head than global average pooling.
    """

    needs = frozenset({"maps", "head"})
    teacher_needs = frozenset({"maps", "head"})
    config: CATKDObjectiveConfig

    def __init__(self, config: CATKDObjectiveConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        require_pooled_head(context.student_shapes, "student", config.kind)
        require_pooled_head(context.teacher_shapes, "teacher", config.kind)

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        config = self.config
        hard = logit_distillation.hard_label_loss_per_sample(student.logits, teacher.logits)
        maps = feature_distillation.class_attention_loss_per_sample(
            _maps(student), _maps(teacher), config.resolution, config.normalize
        )
        return config.ce_weight * hard + config.map_weight * maps


def _maps(output: NetworkOutput) -> Tensor:
    assert output.head_weight is not None
    return feature_distillation.class_activation_maps(output.maps[-1], output.head_weight)


OBJECTIVE = ObjectiveEntry(
    config=CATKDObjectiveConfig,
    objective=CATKDObjective,
    title="CAT-KD: class-activation maps",
    paper="Guo et al., CVPR 2023",
)
