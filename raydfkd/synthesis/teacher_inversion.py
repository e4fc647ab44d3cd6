"""What the methods that train a generator through the teacher share: their student, the rounding and judging of what is stored.

FastDFKD, SSD-KD, CMI and PRE-DFKD are of this kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raydfkd.deferred import deferred
from raydfkd.synthesis.method import SynthesisConfig, SynthesisContext
from raydfkd.types import Preparation, SyntheticBatch, WeightsVersion

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raydfkd.losses import distillation
    from raydfkd.models import precision, weight_vector
    from raydfkd.models.teachers import frozen_teacher
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
    from raydfkd.tasks.task import Task
else:
    torch = deferred("torch")
    distillation = deferred("raydfkd.losses.distillation")
    precision, weight_vector = deferred("raydfkd.models.precision"), deferred("raydfkd.models.weight_vector")
    frozen_teacher = deferred("raydfkd.models.teachers.frozen_teacher")


class InversionConfig(SynthesisConfig):
    """Settings of every method that trains a generator through the teacher."""

    student: str | None = None
    """Student that this source plays against: generators get its weights, and new images their initial priorities from its
    losses; null: the first one."""


class InversionSynthesizer:
    """The teacher, a copy of the student, and the way from images to a ``SyntheticBatch``.

    Args:
        config: the method's settings.
        task: judges what will be stored.
        teacher: frozen.
        student: a copy used only by this synthesizer; weights are updated by ``load_student``.
        context: see ``SynthesisContext``.
        device: where all of it runs.
    """

    def __init__(
        self,
        config: InversionConfig,
        task: Task,
        teacher: FrozenTeacher,
        student: nn.Module,
        context: SynthesisContext,
        device: torch.device,
    ) -> None:
        self.config = config
        self.context = context
        self.device = device
        self.task = task
        self.teacher = teacher.to(device).to(memory_format=torch.channels_last)
        self.student = student.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.student_version: WeightsVersion = 0
        self.rng = torch.Generator().manual_seed(context.seed)

    def prepare(self) -> Preparation | None:
        """No preparation: it learns while it makes batches."""
        return None

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        weight_vector.load_flat_weights(self.student, weights)
        self.student_version = version

    def _finish(self, images: Tensor, targets: Tensor, metrics: dict[str, float]) -> SyntheticBatch:
        """Rounds to uint8 and evaluates teacher and student on the images as stored (SSD-KD, Algorithm 1, lines 12-14)."""
        stored = (images * 255).round_().clamp_(0, 255).to(torch.uint8)
        teacher_logits = self.teacher.logits_of(stored, self.context.bf16)
        return SyntheticBatch.of_judgement(
            self.task.judge(teacher_logits),
            images=stored.contiguous(memory_format=torch.contiguous_format).cpu().numpy(),
            targets=targets.cpu().numpy(),
            source=self.config.method,
            generator_id=self.context.generator_id,
            student_version=self.student_version,
            priorities=self._priorities(stored, teacher_logits),
            metrics=metrics,
        )

    def _priorities(self, stored: Tensor, teacher_logits: Tensor) -> np.ndarray | None:
        temperature = self.context.priority_temperature
        if temperature is None:
            return None
        with torch.no_grad(), precision.autocast(self.device, self.context.bf16):
            student_logits = self.student(self.teacher.normalize(frozen_teacher.pixels_of(stored))).float()
        priorities: np.ndarray = distillation.kd_loss_per_sample(student_logits, teacher_logits, temperature).cpu().numpy()
        return priorities
