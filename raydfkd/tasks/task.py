"""What every task is: its settings' base class, how stored images are judged, how students are measured.

A task is one file: a subclass of ``TaskConfig``, a ``Task``, and a ``TaskKind`` that is named in one line of the room's
``__init__``. Importing it imports no torch. Nothing outside of this room asks which task a run has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.settings import Settings
from raydfkd.types import Judgement

if TYPE_CHECKING:
    import torch

    from raydfkd.data.datasets import ImageDataset
    from raydfkd.evaluation.accuracy import Evaluator
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    torch = deferred("torch")


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


class Task:
    """What one kind of task adds to a run.

    Attributes:
        metric_name: of the students' figure of merit, as result.json has it.
        metric_label: the same for people.
    """

    metric_name: ClassVar[str]
    metric_label: ClassVar[str]

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    def judge(self, logits: torch.Tensor) -> Judgement:
        """What the teacher's logits [B,K] or [B,K,H,W] say of each image."""
        raise NotImplementedError

    def evaluator(
        self,
        dataset: ImageDataset,
        teacher: FrozenTeacher,
        batch_size: int,
        device: torch.device,
        autocast_dtype: torch.dtype | None,
    ) -> Evaluator:
        """What measures students on labelled images, beside their teacher."""
        raise NotImplementedError

    def judge_all(
        self, teacher: FrozenTeacher, images: np.ndarray, device: torch.device, bf16: bool, batch_size: int
    ) -> Judgement:
        """The teacher's judgement of any number of uint8 images [N,C,H,W].

        Args:
            device: the teacher's.
            batch_size: images judged at a time.
        """
        parts = [self.judge(torch.empty(0, self.config.num_classes))] if len(images) == 0 else []
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
    """

    config: type[TaskConfig]
    build: Callable[[Any], Task]
    title: str
