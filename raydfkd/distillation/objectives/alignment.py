"""Classifier sharing: the student's projected features become the teacher's, whose classifier it uses (SimKD, HiDFD)."""

from __future__ import annotations

from torch import Tensor

from raydfkd.distillation.objectives.base import NetworkOutput, Objective, ObjectiveContext
from raydfkd.distillation.objectives.config import ClassifierSharingObjectiveConfig
from raydfkd.losses.feature_distillation import feature_alignment_per_sample, pooled_alignment_per_sample


class ClassifierSharingObjective(Objective):
    """HiDFD Eq. 14, L_align, on maps (default, what its code does) or on pooled features (as printed).

    The student must be a ``SharedClassifierStudent``, whose last map is the projected one; the projector is part of it.
    Logits do not matter here.

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

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        student_map, teacher_map = student.maps[-1], teacher.maps[-1]
        if self.config.alignment == "maps":
            return feature_alignment_per_sample(student_map, teacher_map)
        return pooled_alignment_per_sample(student_map.float().mean((2, 3)), teacher_map.float().mean((2, 3)))
