"""What is done to one part of a data set under construction: read, render, judge, attack. Plain callables on columns.

Columns are a mapping of names to arrays with a row an image: ``part`` int64, ``row`` int64 (the candidate's number), ``image``
uint8 [n,C,H,W], ``error`` text (why it is no candidate; empty: it is one), and what the teacher says: ``teacher_class`` int32
(-1 where there is an error) and ``teacher_confidence`` float32; where duplicates are dropped, ``thumbnail`` uint64, by which
those in other parts are found. A part always comes whole, so that what is computed of it depends on neither the number of
workers nor the order in which they finish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from raydfkd.data.decoding import Decoder
from raydfkd.data.rows import RowReader
from raydfkd.models.teacher import FrozenTeacher
from raydfkd.pipeline import builder
from raydfkd.pipeline.config import derive_seed
from raydfkd.pipeline.dataset_config import DatasetBuildConfig

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Span:
    """One part of a pass: its number, and which places [first, last) of the pass's rows it has."""

    number: int
    first: int
    last: int

    def columns(self) -> Columns:
        return {name: np.array([getattr(self, name)]) for name in ("number", "first", "last")}

    @classmethod
    def of(cls, columns: Columns) -> Span:
        (number,), (first,), (last,) = (columns[name].tolist() for name in ("number", "first", "last"))
        return cls(number, first, last)


def spans(total: int, size: int) -> list[Span]:
    """``total`` places cut into parts of ``size``."""
    return [Span(n, first, min(first + size, total)) for n, first in enumerate(range(0, total, size))]


class Worker(Protocol):
    """Has a teacher, and is therefore made once in each process."""

    def __call__(self, columns: Columns) -> Columns: ...


@dataclass(frozen=True)
class Pass:
    """Work on parts, each for itself.

    Attributes:
        name: for people.
        parts: what is to be done, in order.
        read: from a span's columns to images, in any process; None: the worker begins with the span.
        worker: class of what works on them, made with the build's settings and a device; None: they are only read.
    """

    name: str
    parts: list[Span]
    read: Callable[[Columns], Columns] | None
    worker: Callable[[DatasetBuildConfig, torch.device], Worker] | None


@dataclass(frozen=True)
class ReadRows:
    """Reads, decodes and resizes rows of a data set; those that cannot be read have an ``error``.

    Attributes:
        rows: int64, the rows in the pass's order, rising, repetitions allowed; None: the data set's own.

    Raises (called):
        DataError: an image has other channels than the teacher's.
    """

    reader: RowReader
    image_shape: tuple[int, int, int]
    convert: bool
    rows: np.ndarray | None = None

    def __call__(self, columns: Columns) -> Columns:
        span = Span.of(columns)
        rows = np.arange(span.first, span.last) if self.rows is None else self.rows[span.first : span.last]
        distinct, place = np.unique(rows, return_inverse=True)
        found = self.reader.read(distinct)
        with Decoder(self.image_shape, self.convert) as decoder:
            images, failed = decoder.decode_all(found.items, found.opener, found.name)
        errors = np.full(len(distinct), "", dtype=object)
        for i, message in failed:
            errors[i] = message
        return _columns(span.number, rows, image=images[place], error=errors[place])


@dataclass(frozen=True)
class ReadStored:
    """Reads rows of candidates that an earlier pass made and stored, one file a part of ``part_size``.

    Every process that does so must see the folder.
    """

    folder: Path
    part_size: int
    rows: np.ndarray

    def __call__(self, columns: Columns) -> Columns:
        span = Span.of(columns)
        rows = self.rows[span.first : span.last]
        parts = rows // self.part_size
        found = []
        for part in np.unique(parts).tolist():
            with np.load(stored_path(self.folder, part)) as stored:
                place = np.searchsorted(stored["row"], rows[parts == part])
                found.append(stored["image"][place])
        images = np.concatenate(found)
        return _columns(span.number, rows, image=images, error=np.full(len(rows), "", dtype=object))


def stored_path(folder: Path, part: int) -> Path:
    return folder / f"stored-{part:05d}.npz"


class Judge:
    """The teacher's class and confidence of images that were read."""

    def __init__(self, config: DatasetBuildConfig, device: torch.device) -> None:
        self._eye = Eye(config, device)

    def __call__(self, columns: Columns) -> Columns:
        classes, confidences = self._eye.judge(columns["image"])
        wrong = columns["error"] != ""
        classes[wrong], confidences[wrong] = -1, 0.0
        kept = {name: columns[name] for name in ("part", "row", "error")}
        return {**kept, "teacher_class": classes, "teacher_confidence": confidences}


class Render:
    """Renders the candidates of a part from a seed of its own, and judges them."""

    def __init__(self, config: DatasetBuildConfig, device: torch.device) -> None:
        from raydfkd.synthesis.procedural.sources import build_source

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
        return _columns(span.number, rows, image=image, teacher_class=classes, teacher_confidence=confidences, **found)

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
    """The boundary attack on every image of a part; gives the images that come of it, whose ``row`` is their origin's."""

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
        return _columns(
            part,
            row,
            image=np.concatenate([one.images for one in made]),
            error=np.full(len(row), "", dtype=object),
            teacher_class=np.concatenate([one.teacher_class for one in made]),
            teacher_confidence=np.concatenate([one.teacher_confidence for one in made]),
            target=np.concatenate([one.targets for one in made]),
        )


def _nothing(columns: Columns, part: int) -> Columns:
    """One row with an error: without any row a block would not tell whose it is."""
    none = np.full(1, -1)
    return _columns(
        part,
        columns["row"][:1],
        image=columns["image"][:1],
        error=np.full(1, "no pair", dtype=object),
        teacher_class=none.astype(np.int32),
        teacher_confidence=np.zeros(1, np.float32),
        target=none,
    )


class Eye:
    """A teacher that judges stored images, in chunks that depend on the part alone."""

    def __init__(self, config: DatasetBuildConfig, device: torch.device) -> None:
        self.teacher: FrozenTeacher = builder.build_frozen_teacher(config).to(device).to(memory_format=torch.channels_last)
        self._device = device
        self._bf16 = config.runtime.bf16
        self._batch_size = config.runtime.batch_size

    def judge(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of uint8 [n,C,H,W]: the class, int32 [n], and its probability, float32 [n]."""
        return self.teacher.judge_all(images, self._device, self._bf16, self._batch_size)


def _columns(part: int, row: np.ndarray, **others: np.ndarray) -> Columns:
    return {"part": np.full(len(row), part, np.int64), "row": row.astype(np.int64), **others}
