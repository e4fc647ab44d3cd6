"""What every task is: its settings' base class, how stored images are judged, how students are measured.

A task is one file: a subclass of ``TaskConfig``, a ``Task``, and a ``TaskKind`` that is named in one line of the room's
``__init__``. Importing it imports no torch. Nothing outside of this room asks which task a run has; where it matters, it is
asked whether the teacher's logits have ``positions``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.settings import Settings
from raydfkd.types import Judgement

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.data.dataset_kind import DatasetConfig
    from raydfkd.data.datasets import ImageDataset
    from raydfkd.evaluation import accuracy
    from raydfkd.evaluation.scores import Measure
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    torch, accuracy = deferred("torch"), deferred("raydfkd.evaluation.accuracy")


class TaskConfig(Settings):
    """What teacher and student predict."""

    kind: str
    """Kind of task."""
    num_classes: int = Field(ge=2)
    """Number of classes."""
    image_shape: tuple[int, int, int]
    """Channels, height and width; height and width are multiples of 4."""

    @model_validator(mode="after")
    def _sizes(self) -> TaskConfig:
        channels, height, width = self.image_shape
        if channels < 1 or height < 4 or width < 4 or height % 4 or width % 4:
            raise ValueError(f"image_shape {list(self.image_shape)} must be [channels, height, width], sizes multiples of 4")
        return self

    @property
    def positions(self) -> tuple[int, ...]:
        """Axes of an image's logits behind the classes, each with a class of its own: none, or height and width."""
        return ()


class Task:
    """What one kind of task adds to a run."""

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    @property
    def measure(self) -> Measure:
        """The networks' figure of merit."""
        raise NotImplementedError

    @property
    def metric_name(self) -> str:
        """Of the figure of merit, as result.json has it."""
        return self.measure.name

    @property
    def metric_label(self) -> str:
        """The same for people."""
        return self.measure.label

    def load(self, dataset: DatasetConfig, order: tuple[str, ...] | None = None) -> ImageDataset:
        """A data set with what is true of its images, in memory; ``order`` as ``load_dataset`` takes it.

        Raises:
            DataError: it cannot be read, or does not fit the task.
        """
        raise NotImplementedError

    def judge(self, logits: Tensor) -> Judgement:
        """What the teacher's logits [B,K] or [B,K,H,W] say of each image."""
        raise NotImplementedError

    def draw_targets(self, num: int, generator: torch.Generator) -> Tensor:
        """int64 [num]: the class that each of so many images is to have, -1 where a class for the whole image says nothing."""
        raise NotImplementedError

    def aims(self, targets_B: Tensor, teacher_logits: Tensor) -> Tensor:
        """The classes in the task loss of images with these targets: int64, the shape of the logits without their classes."""
        raise NotImplementedError

    def evaluator(
        self,
        dataset: ImageDataset,
        teacher: FrozenTeacher,
        batch_size: int,
        device: torch.device,
        autocast_dtype: torch.dtype | None,
    ) -> accuracy.Evaluator:
        """What measures students on labelled images, beside their teacher."""
        return accuracy.Evaluator(dataset, teacher, batch_size, device, autocast_dtype, self.measure)

    def judge_all(
        self, teacher: FrozenTeacher, images: np.ndarray, device: torch.device, bf16: bool, batch_size: int
    ) -> Judgement:
        """The teacher's judgement of any number of uint8 images [N,C,H,W].

        Args:
            device: the teacher's.
            batch_size: images judged at a time.
        """
        empty = torch.empty(0, self.config.num_classes, *self.config.positions)
        parts = [self.judge(empty)] if len(images) == 0 else []
        for first in range(0, len(images), batch_size):
            # A copy: what comes through Ray's object store cannot be written to, which torch warns of.
            chunk = torch.from_numpy(images[first : first + batch_size].copy()).to(device)
            parts.append(self.judge(teacher.logits_of(chunk, bf16)))
        return Judgement.concat(parts)


@dataclass(frozen=True)
class TaskKind:
    """A kind of task.

    Attributes:
        config: its settings.
        build: makes the ``Task`` of such settings.
        title: for people.
        network: what a network for it is called at the beginning of a sentence.
        tag: what the Hugging Face Hub calls it.
    """

    config: type[TaskConfig]
    build: Callable[[Any], Task]
    title: str
    network: str
    tag: str
