"""The parts of a data set being built, and reading them. Imports no torch, so that a process that only reads starts quickly.

Columns map names to arrays, a row per image: ``part`` int64, ``row`` int64 (the candidate's number), ``image``
uint8 [n,C,H,W], ``error`` str (why the image is unusable; else empty), and the teacher's output: ``teacher_class`` int32
(-1 where there is an error) and ``teacher_confidence`` float32; where duplicates are dropped, ``thumbnail`` uint64, to find
duplicates across parts. A part is always processed as a whole, so that its results depend on neither the number of workers
nor the order in which they finish.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raydfkd.data.dataset_kind import RowReader
from raydfkd.data.decoding import Decoder

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Span:
    """One part of a pass: its number and its range [first, last) of the pass's rows."""

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
    """``total`` rows split into parts of ``size``."""
    return [Span(n, first, min(first + size, total)) for n, first in enumerate(range(0, total, size))]


@dataclass(frozen=True)
class ReadRows:
    """Reads, decodes and resizes rows of a data set; unreadable ones have an ``error``.

    Attributes:
        rows: int64, the rows in the pass's order, ascending, repeats allowed; None: the data set's own.

    Raises (called):
        DataError: an image has a different number of channels than the teacher expects.
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
        return columns_of(span.number, rows, image=images[place], error=errors[place])


@dataclass(frozen=True)
class ReadStored:
    """Reads rows of candidates that an earlier pass rendered and stored, one file per part of ``part_size``.

    Every process that uses it must have access to the folder.
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
        return columns_of(span.number, rows, image=images, error=np.full(len(rows), "", dtype=object))


def stored_path(folder: Path, part: int) -> Path:
    return folder / f"stored-{part:05d}.npz"


def columns_of(part: int, row: np.ndarray, **others: np.ndarray) -> Columns:
    return {"part": np.full(len(row), part, np.int64), "row": row.astype(np.int64), **others}
