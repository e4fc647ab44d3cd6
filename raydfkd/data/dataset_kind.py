"""What every kind of data set is: its settings' base class, how it is read, and its registry entry.

A kind is one file: a subclass of ``DatasetConfig``, a function that opens it, and a ``DatasetKind`` that is named in one line
of ``kinds/__init__.py``, or by an entry point ``raydfkd.datasets`` of another package. Importing it imports no torch.

This file stands outside of ``kinds``, whose import loads all kinds: another package's module imports this one and is complete
when it is loaded, whichever of the two was imported first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pydantic import Field

from raydfkd.settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = 4096
"""Images of a chunk at most."""


class DatasetConfig(Settings):
    """Which images to read. ``split`` is always given, because the manifest records every split read and its use."""

    kind: str
    """Kind of data set."""
    split: str = "test"
    """Name of this data in the manifest."""
    max_images: int | None = Field(default=None, ge=1)
    """Read at most this many, evenly spaced over the data set; null reads all."""
    convert: bool = False
    """Allow grey <-> colour conversion to the task's channels; otherwise a mismatch is an error."""

    @property
    def location(self) -> str:
        """Its path or name, for the manifest."""
        return self.kind


@dataclass(frozen=True)
class Chunk:
    """Undecoded images: ``items`` for the source's opener, ``labels`` int64 [n] (-1: not read), ``name(i)`` for messages, and,
    of a source with masks, ``masks`` for its ``mask_opener``, one an image."""

    items: Sequence[Any]
    labels: np.ndarray
    name: Callable[[int], str]
    masks: Sequence[Any] | None = None


@dataclass(frozen=True)
class Source:
    """A data set before decoding.

    Attributes:
        name: short, for messages and the manifest.
        description: where it lies.
        total: how many images the chunks hold together.
        classes: their names, or None if the data set does not say.
        opener: gives the PIL image of an item.
        chunks: the images, in order.
        mask_opener: gives the PIL image of a mask, whose values are classes; None: it has none.
        ignore_index: value in masks of pixels that do not count; None: all count.
    """

    name: str
    description: str
    total: int
    classes: tuple[str, ...] | None
    opener: Callable[[Any], Image]
    chunks: Iterator[Chunk]
    mask_opener: Callable[[Any], Image] | None = None
    ignore_index: int | None = None


@dataclass(frozen=True)
class Rows:
    """Undecoded images: ``items`` for ``opener``, which gives the PIL image; ``name(i)`` for messages."""

    items: Sequence[Any]
    opener: Callable[[Any], Image]
    name: Callable[[int], str]


class RowReader(Protocol):
    """Reads rows of one data set.

    Attributes:
        description: where it lies.
        total: how many rows there are.
    """

    @property
    def description(self) -> str: ...

    @property
    def total(self) -> int: ...

    def read(self, rows: np.ndarray) -> Rows:
        """The rows of these numbers, int64 [n] in [0, total), rising and distinct."""
        ...


OpenDataset = Callable[[Any, bool], Source]
"""From a kind's settings, and whether labels are read, to the data set as a stream."""
OpenMasks = Callable[[Any], Source]
"""From a kind's settings to the data set as a stream of images with their masks."""


@dataclass(frozen=True)
class DatasetKind:
    """A kind of data set, and all that the rest of the program asks about it.

    Attributes:
        config: its settings.
        title: for people.
        open: the data set as a stream; the flag says whether labels are read (without, none need be there).
        rows: opens the reader of its rows at random; ``read_whole(open)`` for one that fits into each process's memory; None:
            it cannot be read so, and is refused where that is needed.
        claims: settings for a path that is given without a kind, or None if the path is of another kind.
        batches: the files of a data set that raydfkd wrote, batches of judged images; None if it is another.
        files: the few files that hold all of it, whose checksum says which data it is; None where that is not so.
        open_masks: the data set with a mask of classes for each image; None: data sets of the kind have none.
    """

    config: type[DatasetConfig]
    title: str
    open: OpenDataset
    rows: Callable[[Any], RowReader] | None
    claims: Callable[[Path], DatasetConfig | None] | None = None
    batches: Callable[[Any], list[Path] | None] | None = None
    files: Callable[[Any], list[Path] | None] | None = None
    open_masks: OpenMasks | None = None


def evenly_spaced(total: int, max_images: int | None) -> np.ndarray:
    """Which of ``total`` images to read: all, or evenly spaced ones, so that data sorted by class keeps its balance."""
    if max_images is None or max_images >= total:
        return np.arange(total)
    return np.arange(max_images) * total // max_images


def slices(chosen: np.ndarray) -> Iterator[np.ndarray]:
    """``chosen`` in parts of at most ``CHUNK``."""
    for start in range(0, len(chosen), CHUNK):
        yield chosen[start : start + CHUNK]


def numbered(template: str, rows: Sequence[Any]) -> Callable[[int], str]:
    """Names of a chunk's images: the template with the image's row in it."""
    return lambda i: template.format(rows[i])


@dataclass(frozen=True)
class _MemoryRows:
    """Rows of a data set that is held whole; once in each process."""

    open: OpenDataset
    config: DatasetConfig
    description: str
    total: int

    def read(self, rows: np.ndarray) -> Rows:
        source, items = _in_memory(self.open, self.config)
        return Rows([items[row] for row in rows.tolist()], source.opener, lambda i: f"image {rows[i]} of {source.name}")


def read_whole(open_dataset: OpenDataset) -> Callable[[Any], RowReader]:
    """What opens the reader of a kind whose data sets are read whole, in each process once.

    Args:
        open_dataset: the kind's ``open``, a function of a module.
    """

    def opened(config: DatasetConfig) -> RowReader:
        source, items = _in_memory(open_dataset, config)
        return _MemoryRows(open_dataset, config, source.description, len(items))

    return opened


def _in_memory(open_dataset: OpenDataset, config: DatasetConfig) -> tuple[Source, list[Any]]:
    """The data set, and what its opener takes of every row."""
    return _read(open_dataset, type(config), config.model_dump_json())


@lru_cache(maxsize=1)
def _read(open_dataset: OpenDataset, settings: type[DatasetConfig], values: str) -> tuple[Source, list[Any]]:
    # Not called with the settings themselves: they cannot be hashed where one of them is a list.
    source = open_dataset(settings.model_validate_json(values), False)
    return source, [item for chunk in source.chunks for item in chunk.items]
