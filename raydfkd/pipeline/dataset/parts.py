"""Operations on one part of a data set being built: classify, render, attack. For columns see ``reading``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.pipeline.dataset.config import DatasetBuildConfig
from raydfkd.pipeline.dataset.reading import Columns, Span, columns_of
from raydfkd.pipeline.experiment import builder
from raydfkd.seeds import derive_seed
from raydfkd.tasks import build_task


class Worker(Protocol):
    """Holds a teacher and is therefore built once per process."""

    def __call__(self, columns: Columns) -> Columns: ...


@dataclass(frozen=True)
class Pass:
    """Work on independent parts.

    Attributes:
        name: for people.
        parts: the parts, in order.
        read: from a span's columns to images, in any process; None: the worker starts from the span.
        worker: class that processes them, built from the build's settings and a device; None: they are only read.
    """

    name: str
    parts: list[Span]
    read: Callable[[Columns], Columns] | None
    worker: Callable[[DatasetBuildConfig, torch.device], Worker] | None


class Judge:
    """The teacher's class and confidence for images that were read."""

    def __init__(self, config: DatasetBuildConfig, device: torch.device) -> None:
        self._eye = Eye(config, device)

    def __call__(self, columns: Columns) -> Columns:
        classes, confidences = self._eye.judge(columns["image"])
        wrong = columns["error"] != ""
        classes[wrong], confidences[wrong] = -1, 0.0
        kept = {name: columns[name] for name in ("part", "row", "error")}
        return {**kept, "teacher_class": classes, "teacher_confidence": confidences}


class Render:
    """Renders the candidates of a part from the part's own seed and classifies them."""

    def __init__(self, config: DatasetBuildConfig, device: torch.device) -> None:
        from raydfkd.synthesis.procedural.image_kinds import build_source

        assert config.images is not None
        self._config = config
        self._eye = Eye(config, device)
        self._source = build_source(config.images, self._eye.teacher, device)

    def __call__(self, columns: Columns) -> Columns:
        from raydfkd.synthesis.procedural.images import to_uint8

        span = Span.of(columns)
        generator = torch.Generator().manual_seed(derive_seed(self._config.runtime.seed, "candidates", span.number))
        images, filtered = [], []
        for first in range(span.first, span.last, self._config.runtime.batch_size):
            count = min(self._config.runtime.batch_size, span.last - first)
            batch = to_uint8(self._source.render(count, generator))
            images.append(batch.cpu().contiguous().numpy())
            filtered.append(self._filter(batch))
        rows, image = np.arange(span.first, span.last), np.concatenate(images)
        found = {name: np.concatenate([one[name] for one in filtered]) for name in filtered[0]}
        classes, confidences = self._eye.judge(image)
        wrong = found["error"] != ""
        classes[wrong], confidences[wrong] = -1, 0.0
        return columns_of(span.number, rows, image=image, teacher_class=classes, teacher_confidence=confidences, **found)

    def _filter(self, images: torch.Tensor) -> Columns:
        """The columns ``error`` and ``thumbnail``, if duplicates are dropped."""
        from raydfkd.synthesis.procedural.filters import filter_images, thumbnail_hashes

        errors = np.full(len(images), "", dtype=object)
        if not self._config.drop_degenerate:
            return {"error": errors}
        found = filter_images(images)
        for reason in ("constant", "two_colours", "duplicate"):
            errors[getattr(found, reason).cpu().numpy()] = reason
        return {"error": errors, "thumbnail": thumbnail_hashes(images)}


class Attack:
    """Runs the boundary attack on every image of a part; returns the attack images, with the ``row`` of their origin."""

    def __init__(self, config: DatasetBuildConfig, device: torch.device) -> None:
        from raydfkd.synthesis.boundary import BoundaryAttack

        assert config.boundary_attack is not None
        self._config = config
        self._eye = Eye(config, device)
        self._attack = BoundaryAttack(config.boundary_attack, self._eye.teacher, device, config.runtime.bf16)

    def __call__(self, columns: Columns) -> Columns:
        part = int(columns["part"][0])
        generator = torch.Generator().manual_seed(derive_seed(self._config.runtime.seed, "attack", part))
        classes, _ = self._eye.judge(columns["image"])
        made, rows = [], []
        size = self._config.runtime.batch_size
        for first in range(0, len(classes), size):
            chunk = slice(first, first + size)
            made.append(self._attack(columns["image"][chunk], classes[chunk], generator))
            rows.append(columns["row"][chunk][made[-1].origins])
        row = np.concatenate(rows)
        if len(row) == 0:
            return _nothing(columns, part)
        return columns_of(
            part,
            row,
            image=np.concatenate([one.images for one in made]),
            error=np.full(len(row), "", dtype=object),
            teacher_class=np.concatenate([one.teacher_class for one in made]),
            teacher_confidence=np.concatenate([one.teacher_confidence for one in made]),
            target=np.concatenate([one.targets for one in made]),
        )


def _nothing(columns: Columns, part: int) -> Columns:
    """One row with an error: a block without rows would not identify its part."""
    none = np.full(1, -1)
    return columns_of(
        part,
        columns["row"][:1],
        image=columns["image"][:1],
        error=np.full(1, "no pair", dtype=object),
        teacher_class=none.astype(np.int32),
        teacher_confidence=np.zeros(1, np.float32),
        target=none,
    )


class Eye:
    """A teacher that classifies stored images, in chunks that depend only on the part."""

    def __init__(self, config: DatasetBuildConfig, device: torch.device) -> None:
        self.teacher: FrozenTeacher = builder.build_frozen_teacher(config).to(device).to(memory_format=torch.channels_last)
        self._task = build_task(config.task)
        self._device = device
        self._bf16 = config.runtime.bf16
        self._batch_size = config.runtime.batch_size

    def judge(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For uint8 [n,C,H,W]: the class, int32 [n], and its probability, float32 [n]."""
        judgement = self._task.judge_all(self.teacher, images, self._device, self._bf16, self._batch_size)
        return judgement.classes, judgement.confidences
