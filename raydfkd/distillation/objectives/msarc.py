"""mSARC, SpaceshipNet's student: the same regions activate in both networks, at all scales (Yu et al., CVPR 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import (
    Objective,
    ObjectiveConfig,
    ObjectiveContext,
    ObjectiveEntry,
    require_pooled_head,
    stage_shapes,
)
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


class MSARCConfig(ObjectiveConfig):
    """Multi-scale spatial activation-region consistency, SpaceshipNet's (Yu et al., CVPR 2023)."""

    kind: Literal["msarc"] = "msarc"
    """Name of the objective."""
    temperature: float = Field(30.0, gt=0)
    """Softening T of the KL term, which is multiplied by T squared and divided by the number of classes, as published."""
    class_map_weight: float = Field(1.0, ge=0)
    """Weight of the class-activation maps' term."""
    stage_map_weight: float = Field(1.0, ge=0)
    """Weight of the stages' Grad-CAM term."""


class MSARCObjective(Objective):
    """KL_T / K + w_1 MSE(class-activation maps) + w_2 sum_stages MSE(Grad-CAM).

    Class-activation maps are the linear head applied at each pixel of the last stage; the student's head is a constant in
    them. Grad-CAM of a stage is the sum of its channels, each weighted by the mean gradient of a logit, the student's
    too of the class that the teacher predicts; the weights are constants. All is as in the published code, whose KL is a mean
    over all elements. Where the networks' maps differ in size, which they do not in the paper, both are pooled to the smaller.

    In training mode the gradient of a student with BatchNorm is that of the whole batch's logits, as published.

    Raises:
        ConfigError: the networks have different numbers of stages, or a network has more between its last map and its head than
            global average pooling.
    """

    needs = frozenset({"maps", "head"})
    teacher_needs = frozenset({"maps", "head", "gradients"})
    config: MSARCConfig

    def __init__(self, config: MSARCConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        require_pooled_head(context.student_shapes, "student", config.kind)
        require_pooled_head(context.teacher_shapes, "teacher", config.kind)
        students = stage_shapes(context.student_shapes, "student", config.kind)
        teachers = stage_shapes(context.teacher_shapes, "teacher", config.kind)
        if len(students) != len(teachers):
            raise ConfigError(
                f"objective 'msarc' compares stage with stage, and the student has {len(students)} and the teacher "
                f"{len(teachers)}: name as many layers in feature_layers of both, or choose another objective"
            )

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        config = self.config
        losses = distillation.kd_loss_per_sample(student.logits, teacher.logits, config.temperature) / student.logits.shape[1]
        if config.class_map_weight > 0:
            losses = losses + config.class_map_weight * _class_maps_apart(student, teacher)
        if config.stage_map_weight > 0:
            losses = losses + config.stage_map_weight * _stages_apart(student, teacher)
        return losses


def _class_maps_apart(student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
    assert student.head_weight is not None
    assert teacher.head_weight is not None
    return feature_distillation.feature_alignment_per_sample(
        feature_distillation.class_activation_maps(student.maps[-1], student.head_weight.detach()),
        feature_distillation.class_activation_maps(teacher.maps[-1], teacher.head_weight),
    )


def _stages_apart(student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
    stages = student.maps[1:]
    chosen = student.logits.gather(1, teacher.logits.argmax(1, keepdim=True)).sum()
    gradients = torch.autograd.grad(chosen, stages, retain_graph=True)
    distances = [
        feature_distillation.feature_alignment_per_sample(
            feature_distillation.grad_cam(own, gradient.mean((2, 3)))[:, None],
            feature_distillation.grad_cam(theirs, weights)[:, None],
        )
        for own, gradient, theirs, weights in zip(stages, gradients, teacher.maps[1:], teacher.gradients[1:], strict=True)
    ]
    return torch.stack(distances).sum(0)


OBJECTIVE = ObjectiveEntry(
    config=MSARCConfig,
    objective=MSARCObjective,
    title="mSARC: class-activation maps and every stage's Grad-CAM",
    paper="Yu et al., CVPR 2023",
)
