"""What the methods that optimise images through the teacher share: their student, the rounding and judging of what is stored.

FastDFKD, SSD-KD, DeepInversion, CMI and PRE-DFKD are of this kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raydfkd.deferred import deferred
from raydfkd.errors import ConfigError
from raydfkd.synthesis.feature_alignment import FeatureAlignment, FeatureAlignmentConfig
from raydfkd.synthesis.method import SynthesisConfig, SynthesisContext, SynthesisParts
from raydfkd.types import Preparation, SyntheticBatch, WeightsVersion

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.losses import distillation, positions
    from raydfkd.models import precision, weight_vector
    from raydfkd.models.teachers import frozen_teacher
else:
    torch = deferred("torch")
    distillation, positions = deferred("raydfkd.losses.distillation"), deferred("raydfkd.losses.positions")
    precision, weight_vector = deferred("raydfkd.models.precision"), deferred("raydfkd.models.weight_vector")
    frozen_teacher = deferred("raydfkd.models.teachers.frozen_teacher")


class InversionConfig(SynthesisConfig):
    """Settings of every method that optimises images, or a generator, through the teacher."""

    student: str | None = None
    """Student that this source plays against: generators get its weights, and new images their initial priorities from its
    losses; null: the first one."""
    feature_alignment: FeatureAlignmentConfig | None = None
    """Align generated images with the collected ones of their class (Condensed Data Expansion); null: off."""

    @property
    def needs_prototypes(self) -> bool:
        return self.feature_alignment is not None

    def with_alignment(self, images: int) -> int:
        """So many images that a generator is trained on, and those that feature alignment takes through the teacher again."""
        return images if self.feature_alignment is None else round((1 + self.feature_alignment.share) * images)


class InversionSynthesizer:
    """The teacher, a copy of the student, and the way from images to a ``SyntheticBatch``.

    Args:
        config: the method's settings.
        parts: the run's task, teacher and student (a copy that only this synthesizer uses), and, for feature alignment, the
            collected images.
        context: see ``SynthesisContext``.
        device: where all of it runs.

    Attributes:
        alignment: None: feature alignment is off.

    Raises:
        ConfigError, TeacherError: see ``FeatureAlignment``.
    """

    def __init__(self, config: InversionConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> None:
        assert parts.student is not None
        self.config = config
        self.context = context
        self.device = device
        self.task = parts.task
        self.teacher = parts.teacher.to(device).to(memory_format=torch.channels_last)
        self.student = parts.student.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.student_version: WeightsVersion = 0
        self.rng = torch.Generator().manual_seed(context.seed)
        self.alignment: FeatureAlignment | None = None
        if config.feature_alignment is not None:
            if parts.collected is None:
                raise ConfigError("feature_alignment aligns generated images with collected ones: give them in collected")
            seed = context.seed + 2  # independent of the synthesizer's draws and of an attack's
            settings, prototypes = config.feature_alignment, parts.collected
            self.alignment = FeatureAlignment(settings, self.teacher, prototypes, seed, device, context.bf16)

    def prepare(self) -> Preparation | None:
        """No preparation: it learns while it makes batches."""
        return None

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        weight_vector.load_flat_weights(self.student, weights)
        self.student_version = version

    def _aligned(
        self, loss: Tensor, terms: dict[str, Tensor], images: Tensor, classes: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss and its terms with those of feature alignment, if it is on; ``classes`` int64 [B], or [B,H,W] of
        pixels, of which an image has the class of most."""
        if self.alignment is None:
            return loss, terms
        more = self.alignment.terms(images, positions.dominant_classes(classes, self.teacher.num_classes))
        return loss + self.alignment.config.weight * more["alignment_loss"], terms | more

    def state_dict(self) -> dict[str, Any]:
        """What every method's state holds."""
        state: dict[str, Any] = {"rng": self.rng.get_state()}
        return state if self.alignment is None else state | {"alignment": self.alignment.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.set_state(state["rng"].cpu())
        if self.alignment is not None:
            self.alignment.load_state_dict(state["alignment"])

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


def portions(total: int, largest: int) -> list[int]:
    """``total`` in as few parts as possible of at most ``largest``, of nearly one size."""
    count = -(-total // largest)
    return [total // count + (i < total % count) for i in range(count)]
