"""Classification: every image has one class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raydfkd.deferred import deferred
from raydfkd.tasks.task import Task, TaskConfig, TaskKind
from raydfkd.types import Judgement

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.data import datasets
    from raydfkd.data.dataset_kind import DatasetConfig
    from raydfkd.data.datasets import ImageDataset
    from raydfkd.evaluation import scores
else:
    torch, datasets = deferred("torch"), deferred("raydfkd.data.datasets")
    scores = deferred("raydfkd.evaluation.scores")


class ClassificationConfig(TaskConfig):
    """One class for each image."""

    kind: Literal["classification"] = "classification"
    """Kind of task."""


class ClassificationTask(Task):
    """An image's class is the argmax of its logits [K], and the teacher's confidence that class's softmax probability."""

    @property
    def measure(self) -> scores.Measure:
        return scores.ACCURACY

    def load(self, dataset: DatasetConfig, order: tuple[str, ...] | None = None) -> ImageDataset:
        return datasets.load_dataset(dataset, self.config.image_shape, self.config.num_classes, order)

    def judge(self, logits: Tensor) -> Judgement:
        confidences, classes = logits.float().softmax(1).max(1)
        return Judgement(classes.int().cpu().numpy(), confidences.cpu().numpy())

    def draw_targets(self, num: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, self.config.num_classes, (num,), generator=generator)

    def aims(self, targets_B: Tensor, teacher_logits: Tensor) -> Tensor:
        return targets_B


TASK = TaskKind(
    config=ClassificationConfig,
    build=ClassificationTask,
    title="one class for each image",
    network="An image classifier",
    tag="image-classification",
)
