"""Classification: every image has one class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raydfkd.deferred import deferred
from raydfkd.tasks.task import Task, TaskConfig, TaskKind
from raydfkd.types import Judgement

if TYPE_CHECKING:
    import torch

    from raydfkd.data.datasets import ImageDataset
    from raydfkd.evaluation import accuracy
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    accuracy = deferred("raydfkd.evaluation.accuracy")


class ClassificationConfig(TaskConfig):
    """One class for each image."""

    kind: Literal["classification"] = "classification"
    """Kind of task."""


class ClassificationTask(Task):
    """An image's class is the argmax of its logits [K], and the teacher's confidence that class's softmax probability."""

    metric_name = "accuracy"
    metric_label = "accuracy"

    def judge(self, logits: torch.Tensor) -> Judgement:
        confidences, classes = logits.float().softmax(1).max(1)
        return Judgement(classes.int().cpu().numpy(), confidences.cpu().numpy())

    def evaluator(
        self,
        dataset: ImageDataset,
        teacher: FrozenTeacher,
        batch_size: int,
        device: torch.device,
        autocast_dtype: torch.dtype | None,
    ) -> accuracy.Evaluator:
        return accuracy.Evaluator(dataset, teacher, batch_size, device, autocast_dtype)


TASK = TaskKind(config=ClassificationConfig, build=ClassificationTask, title="one class for each image")
