"""Semantic segmentation: every pixel has one class.

What is one value an image in classification is here the mean over its pixels (``losses.positions``); classes are counted in
pixels, which is what "rare" means to SSD-KD's phi and to a class-balanced buffer. The papers on classification leave open what
a generator is to aim at: a class drawn for a whole image says nothing of its pixels, so the task loss is the cross-entropy of
each pixel to the class that the teacher predicts for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from raydfkd.deferred import deferred
from raydfkd.tasks.task import Task, TaskConfig, TaskKind
from raydfkd.types import Judgement

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.data import masks
    from raydfkd.data.dataset_kind import DatasetConfig
    from raydfkd.data.datasets import ImageDataset
    from raydfkd.evaluation import scores
    from raydfkd.losses import positions
else:
    torch, masks = deferred("torch"), deferred("raydfkd.data.masks")
    scores, positions = deferred("raydfkd.evaluation.scores"), deferred("raydfkd.losses.positions")

MOST_CLASSES = 32767
"""Classes of pixels are 16-bit numbers."""


class SegmentationConfig(TaskConfig):
    """One class for each pixel."""

    kind: Literal["segmentation"] = "segmentation"
    """Kind of task."""

    @model_validator(mode="after")
    def _classes_fit(self) -> SegmentationConfig:
        if self.num_classes > MOST_CLASSES:
            raise ValueError(f"num_classes {self.num_classes} is more than the {MOST_CLASSES} that pixels may have")
        return self

    @property
    def positions(self) -> tuple[int, ...]:
        return self.image_shape[1:]


class SegmentationTask(Task):
    """A pixel's class is the argmax of its logits. An image's is that of most of its pixels, and the teacher's confidence the
    mean of the pixels' largest softmax probabilities."""

    @property
    def measure(self) -> scores.Measure:
        return scores.MEAN_IOU

    def load(self, dataset: DatasetConfig, order: tuple[str, ...] | None = None) -> ImageDataset:
        return masks.load_masked(dataset, self.config.image_shape, self.config.num_classes, order)

    def judge(self, logits: Tensor) -> Judgement:
        confidences, classes = logits.float().softmax(1).max(1)
        histogram = positions.class_histogram(classes, self.config.num_classes)
        return Judgement(
            histogram.argmax(1).int().cpu().numpy(),
            positions.mean_over_positions(confidences).cpu().numpy(),
            histogram.int().cpu().numpy(),
        )

    def draw_targets(self, num: int, generator: torch.Generator) -> Tensor:
        return torch.full((num,), -1)

    def aims(self, targets_B: Tensor, teacher_logits: Tensor) -> Tensor:
        return teacher_logits.argmax(1)


TASK = TaskKind(
    config=SegmentationConfig,
    build=SegmentationTask,
    title="one class for each pixel",
    network="A network for semantic segmentation",
    tag="image-segmentation",
)
