"""The trained module (a student with its objective's layers), and how both networks are read for the objective."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from raydfkd.distillation.config import StudentConfig
from raydfkd.distillation.objective import Objective
from raydfkd.distillation.objectives import OBJECTIVES, build_objective
from raydfkd.models.features import FeatureReader, NetworkOutput
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher


class Learner(nn.Module):
    """Student and objective in one forward pass: the module that data-parallel training wraps, so that both are trained."""

    def __init__(self, student: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.trained = objective.trained

    def forward(
        self, view: Tensor, teacher: NetworkOutput, progress: float | Tensor, perturbed_view: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """For normalised images [B,C,H,W]: the objective's per-sample loss [B], and the student's logits [B,K]."""
        output = self.student(view)
        if perturbed_view is not None:
            output = replace(output, perturbed=self.student(perturbed_view))
        return self.objective(output, teacher, progress), output.logits


def build_learner(config: StudentConfig, teacher: FrozenTeacher, student: nn.Module) -> tuple[Learner, FeatureReader]:
    """The learner, and the teacher's reader for it. The objective's layers are initialised from torch's global generator.

    Raises:
        TeacherError, ConfigError: a network does not have what the objective needs.
    """
    entry = OBJECTIVES.get(config.objective.kind)
    remade = entry.student is not None  # its layers' names differ from those in the settings
    reader = FeatureReader(
        student,
        entry.objective.needs,
        teacher.num_classes,
        teacher.image_shape,
        layers=None if remade else config.feature_layers,
        head=None if remade else config.classifier_head,
    )
    teacher_reader = teacher.feature_reader(entry.objective.teacher_needs)
    batch_size = config.batch_size // (config.num_workers * config.accumulation_steps)
    objective = build_objective(config.objective, reader.shapes(), teacher_reader.shapes(), teacher.num_classes, batch_size)
    return Learner(reader, objective), teacher_reader
