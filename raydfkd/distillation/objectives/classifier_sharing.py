"""Classifier sharing: the student's projected features become the teacher's, whose classifier it uses (SimKD, HiDFD)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raydfkd.deferred import deferred
from raydfkd.distillation.objective import (
    Objective,
    ObjectiveConfig,
    ObjectiveContext,
    ObjectiveEntry,
    StudentLayers,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raydfkd.losses import feature_distillation
    from raydfkd.models import shared_classifier
    from raydfkd.models.network_output import NetworkOutput
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    feature_distillation = deferred("raydfkd.losses.feature_distillation")
    shared_classifier = deferred("raydfkd.models.shared_classifier")


class ClassifierSharingObjectiveConfig(ObjectiveConfig):
    """HiDFD's student stage (SimKD): the student's projected features match the teacher's and feed the teacher's classifier."""

    kind: Literal["classifier_sharing"] = "classifier_sharing"
    """Name of the objective."""
    alignment: Literal["maps", "pooled"] = "maps"
    """maps: mean squared difference of the last maps (SimKD, HiDFD's code); pooled: L2 distance of the pooled ones (Eq. 14)."""


class ClassifierSharingObjective(Objective):
    """HiDFD Eq. 14, L_align, on maps (default, what its code does) or on pooled features (as printed).

    The student is a ``SharedClassifierStudent``, whose last map is the projected one; the projector is part of it. Logits do
    not matter here.

    Raises:
        ValueError: the student's last map has another width than the teacher's (a bug of the caller).
    """

    needs = frozenset({"maps"})
    teacher_needs = frozenset({"maps"})
    config: ClassifierSharingObjectiveConfig

    def __init__(self, config: ClassifierSharingObjectiveConfig, context: ObjectiveContext) -> None:
        super().__init__(config, context)
        student, teacher = context.student_shapes.maps[-1], context.teacher_shapes.maps[-1]
        if student[0] != teacher[0]:
            raise ValueError(
                f"the student's last map has {student[0]} channels and the teacher's {teacher[0]}: share_classifier first"
            )

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float | Tensor) -> Tensor:
        student_map, teacher_map = student.maps[-1], teacher.maps[-1]
        if self.config.alignment == "maps":
            return feature_distillation.feature_alignment_per_sample(student_map, teacher_map)
        return feature_distillation.pooled_alignment_per_sample(
            student_map.float().mean((2, 3)), teacher_map.float().mean((2, 3))
        )


def with_teachers_classifier(network: nn.Module, teacher: FrozenTeacher, settings: StudentLayers) -> nn.Module:
    """The student as a ``SharedClassifierStudent``."""
    return shared_classifier.share_classifier(
        network, teacher, feature_layers=settings.feature_layers, classifier_head=settings.classifier_head
    )


OBJECTIVE = ObjectiveEntry(
    config=ClassifierSharingObjectiveConfig,
    objective=ClassifierSharingObjective,
    title="HiDFD's student stage: the teacher's classifier on aligned features",
    paper="Chen et al., CVPR 2022",
    student=with_teachers_classifier,
)
