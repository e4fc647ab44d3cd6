"""Renders images, classifies them with the teacher, and delivers those that balance the buffer's classes.

The endless form of the selection in "What Makes a Good Dataset for Knowledge Distillation?" (Sec. 3.2): instead of choosing
50,000 images once from many more, each batch is chosen from up to ``max_tries`` rendered ones, given the buffer's contents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.errors import DataError
from raydfkd.replay.statistics import relative_entropy
from raydfkd.synthesis.method import (
    Method,
    Suggestion,
    SynthesisConfig,
    SynthesisContext,
    SynthesisParts,
    TeacherTraits,
)
from raydfkd.synthesis.procedural.balance import choose_even, even_shares
from raydfkd.synthesis.procedural.image_kinds import AnyImages, build_source
from raydfkd.synthesis.procedural.images import ImageSource, to_uint8
from raydfkd.synthesis.procedural.shader_images import ShaderImagesConfig
from raydfkd.types import BufferSummary, Judgement, Preparation, SyntheticBatch, WeightsVersion

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.data.dataset_kind import DatasetConfig
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
    from raydfkd.synthesis.procedural import filters
    from raydfkd.tasks.task import Task
else:
    torch, filters = deferred("torch"), deferred("raydfkd.synthesis.procedural.filters")


class ProceduralConfig(SynthesisConfig):
    """Images rendered by a procedure unrelated to the task, selected by the teacher's predictions."""

    method: Literal["procedural"] = "procedural"
    """Name of the synthesis method."""
    images: AnyImages = ShaderImagesConfig()
    """What is rendered."""
    drop_degenerate: bool = True
    """Drop constant and two-colour images, and duplicates within a batch."""
    class_balanced: bool = True
    """Choose images so that the buffer's classes, as the teacher predicts them, become as even as possible."""
    max_tries: int = Field(4, ge=1)
    """Maximum batches rendered for each one delivered, while classes lack images or too many were dropped."""

    @model_validator(mode="after")
    def _refuse_idle_tries(self) -> Self:
        if not self.drop_degenerate and not self.class_balanced:
            self.refuse_idle("drop_degenerate and class_balanced false", "max_tries")
        return self

    @property
    def class_balanced_batches(self) -> bool:
        return self.class_balanced

    @property
    def datasets_read(self) -> tuple[DatasetConfig, ...]:
        return self.images.datasets_read


@dataclass
class _Candidates:
    """Rendered images that passed the filters, uint8 [N,C,H,W] on the device, and the teacher's judgement of them."""

    images: Tensor
    judgement: Judgement

    @classmethod
    def joined(cls, parts: list[_Candidates]) -> _Candidates:
        return cls(torch.cat([part.images for part in parts]), Judgement.concat([part.judgement for part in parts]))


class ProceduralSynthesizer:
    """An endless source of images. It needs only the teacher's judgement, not the student."""

    def __init__(
        self,
        config: ProceduralConfig,
        task: Task,
        teacher: FrozenTeacher,
        source: ImageSource,
        context: SynthesisContext,
        device: torch.device,
    ) -> None:
        self.config = config
        self.task = task
        self.context = context
        self.device = device
        self.teacher = teacher.to(device).to(memory_format=torch.channels_last)
        self.source = source
        self.student_version: WeightsVersion = 0
        self.rng = torch.Generator().manual_seed(context.seed)

    @classmethod
    def build(cls, config: ProceduralConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> Self:
        """Builds it with the source from the settings.

        Raises:
            ConfigError, DataError: see ``build_source``.
        """
        return cls(config, parts.task, parts.teacher, build_source(config.images, parts.teacher, device), context, device)

    def prepare(self) -> Preparation | None:
        """No preparation is needed."""
        return None

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        self.student_version = version

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        """A batch of images from the classes the buffer lacks most.

        Raises:
            DataError: every rendered image was dropped by the filters.
        """
        held = summary.images_by_class
        everything = np.full(len(held), self.config.batch_size)
        wanted = even_shares(held, everything, self.config.batch_size)
        parts: list[_Candidates] = []
        counts = np.zeros(len(held), np.int64)
        figures: dict[str, int] = {"rendered": 0, "constant": 0, "two_colours": 0, "duplicate": 0}
        for _ in range(self.config.max_tries):
            found, dropped = self._candidates()
            figures["rendered"] += self.config.batch_size
            for name, count in dropped.items():
                figures[name] += count
            parts.append(found)
            counts += np.bincount(found.judgement.classes, minlength=len(held))
            enough = counts.sum() >= self.config.batch_size
            if enough and (not self.config.class_balanced or (counts >= wanted).all()):
                break
        if not counts.sum():
            raise DataError(
                f"all {figures['rendered']} images that source {self.config.images.kind!r} rendered are constant or have two "
                "colours: change images, or set drop_degenerate=false"
            )
        return self._delivered(_Candidates.joined(parts), held, counts, figures)

    def _candidates(self) -> tuple[_Candidates, dict[str, int]]:
        """One rendered batch after filtering, judged as it would be stored; and the number dropped by each filter."""
        with torch.no_grad():
            images = to_uint8(self.source.render(self.config.batch_size, self.rng))
            dropped: dict[str, int] = {}
            if self.config.drop_degenerate:
                filtered = filters.filter_images(images)
                images, dropped = images[filtered.kept], filtered.counts()
        if not len(images):
            task = self.task.config
            return _Candidates(images, self.task.judge(torch.empty(0, task.num_classes, *task.positions))), dropped
        return _Candidates(images, self.task.judge(self.teacher.logits_of(images, self.context.bf16))), dropped

    def _delivered(
        self, candidates: _Candidates, held: np.ndarray, counts: np.ndarray, figures: dict[str, int]
    ) -> SyntheticBatch:
        chosen = self._chosen(candidates.judgement.classes, held)
        judgement = candidates.judgement.take(chosen)
        images = candidates.images[torch.from_numpy(chosen).to(self.device)]
        distinct = len(np.unique(chosen))
        return SyntheticBatch.of_judgement(
            judgement,
            images=images.contiguous(memory_format=torch.contiguous_format).cpu().numpy(),
            source=self.config.method,
            generator_id=self.context.generator_id,
            student_version=self.student_version,
            metrics={
                **{name: float(count) for name, count in figures.items()},
                "acceptance_rate": distinct / figures["rendered"],
                "repeated": float(len(chosen) - distinct),
                "rendered_class_evenness": relative_entropy(counts),
                "batch_class_evenness": relative_entropy(np.bincount(judgement.classes, minlength=len(held))),
            },
        )

    def _chosen(self, classes_N: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Which candidates to deliver, ``batch_size`` of them in random order; repeated if there are not enough."""
        size = self.config.batch_size
        order = torch.randperm(len(classes_N), generator=self.rng).numpy()
        if self.config.class_balanced:
            order = order[choose_even(classes_N[order].astype(np.int64), held, size)]
        return np.tile(order, -(-size // len(order)))[:size]

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.set_state(state["rng"].cpu())


def suggest(teacher: TeacherTraits) -> Suggestion | None:
    """For every teacher of grey or colour images, whose predictions are enough; with a gradient and no BatchNorm, attacked.

    Of the latter's ways it is the best on colour images by the study's Table 2 (83 to 87% of CIFAR-10 from a ConvNeXt and a
    vision transformer), and not on grey digits (experiments/results/no_catastrophe).
    """
    if teacher.image_shape[0] not in (1, 3):
        return None
    student = {"augmentation": {"level": "high", "mixup": "sample"}}
    if teacher.has_batch_norm and teacher.input_gradient:
        reasons = {"method": "images are rendered, and chosen by the teacher's predictions, whatever it is"}
        return Suggestion(3, {}, reasons, student)
    if teacher.input_gradient:
        reasons = {
            "method": "the teacher has no BatchNorm statistics: images are rendered, and chosen by its predictions",
            "boundary_attack": "the teacher has a gradient, by which images are moved to its decision boundary",
        }
        return Suggestion(1 if teacher.takes_colour else 2, {"boundary_attack": {}}, reasons, student)
    reasons = {"method": "the teacher gives no gradient: images are rendered, and chosen by its predictions"}
    return Suggestion(1, {}, reasons, student)


METHOD = Method(
    config=ProceduralConfig,
    build=ProceduralSynthesizer.build,
    title="Surrogate images: rendered noise, dead leaves, shaders or crops, chosen by the teacher's classes",
    paper="What Makes a Good Dataset for Knowledge Distillation?",
    suggest=suggest,
)
