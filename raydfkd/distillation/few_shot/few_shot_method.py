"""The parts of a few-shot method: settings, a registry entry, and a function that trains a student on a handful of images.

A method is one file with these three, which must not import torch at import time (``raydfkd.deferred``), since the settings
tree is built from all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raydfkd.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raydfkd.augment.config import Augmentations
    from raydfkd.models.classifiers.pruning import Kept
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher


class FewShotConfig(Settings):
    """Settings of a few-shot method; the defaults are the published values."""

    kind: str
    """Name of the method."""


@dataclass(frozen=True)
class FewShotParts:
    """What a method works with.

    Attributes:
        teacher: on ``device``.
        student: on ``device``; trained in place. It takes normalised images.
        images: uint8 [N,C,H,W], the collected images, on the CPU.
        kept: the teacher's filters that the student has, if it is the teacher pruned.
        augmentations: of the student.
        seed: of all random draws.
    """

    teacher: FrozenTeacher
    student: nn.Module
    images: Tensor
    kept: Kept | None
    augmentations: Augmentations
    device: torch.device
    seed: int


@dataclass(frozen=True)
class FewShotStep:
    """Progress: ``done`` of ``total`` steps, of whatever length, and the method's own numbers."""

    done: int
    total: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FewShotEntry:
    """A few-shot method in the registry.

    Attributes:
        config: its settings; their field ``kind`` is a Literal of the name under which it is registered.
        train: trains the student of the parts in place, and yields after each step.
        require: raises TeacherError or ConfigError if teacher and student (on any device) are not of a form that it can take.
        title, paper: for display.
        needs_kept_filters: the student must be the teacher with filters pruned and the weights of the others kept.
    """

    config: type[FewShotConfig]
    train: Callable[[Any, FewShotParts], Iterator[FewShotStep]]
    title: str
    paper: str
    require: Callable[[FrozenTeacher, nn.Module], None] = lambda teacher, student: None
    needs_kept_filters: bool = False
