"""Any rows of a data set at random, undecoded: for pipelines whose workers read a part each.

``sources.py`` goes through a data set from its beginning to its end; a reader here is small, can be sent to another process,
and reads there no more than it is asked for. Labels are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from raydfkd.data.config import DatasetConfig, ImageFolderConfig, ParquetConfig
from raydfkd.data.decoding import open_file
from raydfkd.data.sources import (
    Source,
    check_columns,
    damaged,
    encoded_images,
    evenly_spaced,
    image_files,
    open_parquet,
    open_source,
    parquet_files,
    parquet_opener,
)
from raydfkd.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_BATCH = 256


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


def open_rows(config: DatasetConfig) -> RowReader:
    """The reader of a data set; ``max_images`` evenly spaced rows of it where the settings say so.

    Raises:
        DataError: it is not there, not readable as what it should be, or empty.
    """
    reader: RowReader
    if isinstance(config, ParquetConfig):
        reader = ParquetRows.open(config)
    elif isinstance(config, ImageFolderConfig):
        reader = FolderRows.open(config)
    else:
        source, items = _in_memory(config)
        reader = MemoryRows(config, source.description, len(items))
    if reader.total == 0:
        raise DataError(f"data set {reader.description} is empty: it holds no image")
    return reader


@dataclass(frozen=True)
class ParquetRows:
    """Rows of Parquet files. A read touches only the row groups that hold them.

    Of a group, pages are streamed, however large it is, and a process whose next read lies further on in the group goes on
    from there: parts read one after the other go through the file once. A page is held whole, besides what is asked for.

    Attributes:
        begins: int64 [G+1], the first row of each row group over all files, and their number.
        groups: (file, row group within it) of each.
        chosen: int64 [total], the rows that count.
    """

    description: str
    image_column: str
    files: tuple[Path, ...]
    groups: tuple[tuple[int, int], ...]
    begins: np.ndarray
    chosen: np.ndarray

    @classmethod
    def open(cls, config: ParquetConfig) -> ParquetRows:
        import pyarrow as pa
        import pyarrow.parquet as pq

        files = parquet_files(config.path)
        groups, sizes = [], [0]
        for number, path in enumerate(files):
            try:
                with pq.ParquetFile(path) as file:
                    check_columns(path, file.schema_arrow, config, labelled=False)
                    for group in range(file.num_row_groups):
                        groups.append((number, group))
                        sizes.append(file.metadata.row_group(group).num_rows)
            except (pa.ArrowException, OSError) as error:
                raise damaged(path, error) from error
        begins = np.cumsum(sizes)
        description = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        chosen = evenly_spaced(int(begins[-1]), config.max_images)
        return cls(description, config.image_column, tuple(files), tuple(groups), begins, chosen)

    @property
    def total(self) -> int:
        return len(self.chosen)

    def read(self, rows: np.ndarray) -> Rows:
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted = self.chosen[rows]
        items: list[Any] = []
        names: list[str] = []
        group_of = np.searchsorted(self.begins, wanted, side="right") - 1
        opener = parquet_opener(pq.read_schema(self.files[0]).field(self.image_column).type)
        for group in np.unique(group_of).tolist():
            number, within = self.groups[group]
            path = self.files[number]
            first_of_file = self.begins[group - within]
            here = wanted[group_of == group]
            try:
                items += _of_group(path, within, self.image_column, here - self.begins[group])
            except (pa.ArrowException, OSError) as error:
                raise damaged(path, error) from error
            names += [f"image {row} of {path}" for row in (here - first_of_file).tolist()]
        return Rows(items, opener, names.__getitem__)


class _GroupReader:
    """Goes through the images of one row group from its first row on.

    Attributes:
        begin: first row of the batch at hand, below which nothing can be read any more.
    """

    def __init__(self, path: Path, group: int, column: str) -> None:
        batches = open_parquet(path).iter_batches(_BATCH, row_groups=[group], columns=[column])
        self._columns = (batch.column(0) for batch in batches)
        self._column = next(self._columns)
        self.begin = 0

    def read(self, rows: np.ndarray) -> list[Any]:
        """The images of these rows of the group, rising."""
        import pyarrow as pa

        items: list[Any] = []
        low = 0
        while True:
            end = self.begin + len(self._column)
            high = int(np.searchsorted(rows, end))
            items += encoded_images(self._column.take(pa.array(rows[low:high] - self.begin)))
            if high == len(rows):
                return items
            low, self.begin = high, end
            self._column = next(self._columns)


_under_way: dict[tuple[object, ...], _GroupReader] = {}
"""The process's last reader, by what it reads; not here while it reads, so that no other thread gets it."""


def _of_group(path: Path, group: int, column: str, rows: np.ndarray) -> list[Any]:
    state = path.stat()
    # A file that was written anew in between is another.
    key = (path, state.st_size, state.st_mtime_ns, group, column)
    reader = _under_way.pop(key, None)
    _under_way.clear()
    if reader is None or rows[0] < reader.begin:
        reader = _GroupReader(path, group, column)
    items = reader.read(rows)
    _under_way[key] = reader
    return items


@dataclass(frozen=True)
class FolderRows:
    """Image files of a folder and its folders, in the order of their paths."""

    description: str
    paths: tuple[Path, ...]

    @classmethod
    def open(cls, config: ImageFolderConfig) -> FolderRows:
        found = image_files(config)
        return cls(str(Path(config.path).expanduser()), tuple(found[i] for i in evenly_spaced(len(found), config.max_images)))

    @property
    def total(self) -> int:
        return len(self.paths)

    def read(self, rows: np.ndarray) -> Rows:
        paths = [self.paths[row] for row in rows]
        return Rows(paths, open_file, lambda i: str(paths[i]))


@dataclass(frozen=True)
class MemoryRows:
    """Rows of a data set that its library reads whole (torchvision, scikit-learn); once in each process."""

    config: DatasetConfig
    description: str
    total: int

    def read(self, rows: np.ndarray) -> Rows:
        source, items = _in_memory(self.config)
        return Rows([items[row] for row in rows.tolist()], source.opener, lambda i: f"image {rows[i]} of {source.name}")


@lru_cache(maxsize=1)
def _in_memory(config: DatasetConfig) -> tuple[Source, list[Any]]:
    """The data set, and what its opener takes of every row (numbers, for such data sets)."""
    source = open_source(config, labelled=False)
    return source, [item for chunk in source.chunks for item in chunk.items]
