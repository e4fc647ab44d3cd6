"""Images in Parquet files: encoded, or as the uint8 tensors that raydfkd writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from raydfkd.data.dataset_kind import CHUNK, Chunk, DatasetConfig, DatasetKind, Rows, Source, evenly_spaced
from raydfkd.data.decoding import open_encoded
from raydfkd.data.file_tree import is_hidden
from raydfkd.errors import DataError
from raydfkd.settings import InputFile

if TYPE_CHECKING:
    from PIL.Image import Image

_BUFFER_BYTES = 1 << 20
_MAGIC = b"PAR1"
"""A Parquet file's first bytes."""
ROW_BATCH = 256
"""Rows decoded from a row group at a time."""


class ParquetConfig(DatasetConfig):
    """Encoded images in Parquet files."""

    kind: Literal["parquet"] = "parquet"

    path: Annotated[str | list[str], InputFile()]
    """A file, a folder of ``*.parquet`` files, or a list of files."""

    image_column: str = "image"
    """Column of encoded bytes, or of Hugging Face's ``struct<bytes, path>``."""

    label_column: str = "label"
    """Column of integer classes."""

    @property
    def location(self) -> str:
        return self.path if isinstance(self.path, str) else ", ".join(self.path)


def parquet_files(path: str | list[str]) -> list[Path]:
    """The files that ``ParquetConfig.path`` names, those of a folder in the order of their names. Raises DataError if none."""
    files: list[Path] = []
    for one in [path] if isinstance(path, str) else path:
        place = Path(one).expanduser()
        if not place.exists():
            raise DataError(f"data set {place} does not exist: correct its path")
        files += _files_in(place) if place.is_dir() else [place]
    if not files:
        raise DataError(f"data set {path} holds no *.parquet file: correct its path")
    return files


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if not is_hidden(path.name))


def open_parquet_source(config: ParquetConfig, labelled: bool) -> Source:
    import pyarrow as pa

    files = parquet_files(config.path)
    readers: list[Any] = []
    for path in files:
        try:
            readers.append(open_parquet(path))
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error
        check_columns(path, readers[-1].schema_arrow, config, labelled)
    description = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    total = sum(reader.metadata.num_rows for reader in readers)
    chosen = evenly_spaced(total, config.max_images)
    classes = _parquet_classes(readers[0].schema_arrow.metadata or {}, config.label_column)
    chunks = _parquet_chunks(files, readers, chosen, config, labelled)
    opener = parquet_opener(readers[0].schema_arrow.field(config.image_column).type)
    return Source(files[0].stem, description, len(chosen), classes, opener, chunks)


def open_parquet(path: Path) -> Any:
    """The ``ParquetFile`` of a path, which streams a row group's pages: by default, all of a column's would be read at once."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def damaged(path: Path, error: Exception) -> DataError:
    """The refusal of a file that Arrow cannot read."""
    reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    return DataError(f"{path} cannot be read as Parquet ({reason}): it is damaged, incomplete or another format")


def check_columns(path: Path, schema: Any, config: ParquetConfig, labelled: bool) -> None:
    """Raises DataError if a column that will be read is missing or holds something else."""
    import pyarrow as pa

    for setting in ("image_column", "label_column") if labelled else ("image_column",):
        column = getattr(config, setting)
        if column not in schema.names:
            raise DataError(f"{path} has no column {column!r} (it has {', '.join(schema.names)}): correct {setting}")
    image = schema.field(config.image_column).type
    if labelled and not pa.types.is_integer(label := schema.field(config.label_column).type):
        raise DataError(f"{path} column {config.label_column!r} holds {label}, not integer classes: correct label_column")
    if pa.types.is_struct(image):
        image = image.field("bytes").type if image.get_field_index("bytes") >= 0 else image
    if holds_pixels(image):
        return
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        raise DataError(f"{path} column {config.image_column!r} holds {image}, not encoded image bytes: correct image_column")


def holds_pixels(column_type: Any) -> bool:
    """Whether a column holds decoded images, uint8 tensors [C,H,W], as raydfkd writes them."""
    import pyarrow as pa

    if not isinstance(column_type, pa.FixedShapeTensorType):
        return False
    return column_type.value_type == pa.uint8() and len(column_type.shape) == 3


def parquet_opener(column_type: Any) -> Callable[[Any], Image]:
    """What makes a PIL image of an item of :func:`encoded_images`."""
    return _open_pixels if holds_pixels(column_type) else open_encoded


def encoded_images(column: Any) -> list[Any]:
    """The images of an Arrow array: encoded bytes, or uint8 arrays [C,H,W] where it holds pixels."""
    import pyarrow as pa

    if holds_pixels(column.type):
        return list(column.to_numpy_ndarray()) if len(column) else []
    if pa.types.is_struct(column.type):
        column = column.field("bytes")
    found: list[Any] = column.to_pylist()
    return found


def _open_pixels(pixels_CHW: np.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray(pixels_CHW[0] if len(pixels_CHW) == 1 else np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0)))


def _parquet_classes(metadata: dict[bytes, bytes], label_column: str) -> tuple[str, ...] | None:
    """Class names from our own ``classes`` key or from Hugging Face's description of the label column."""
    try:
        if b"classes" in metadata:
            return tuple(str(name) for name in json.loads(metadata[b"classes"]))
        if b"huggingface" in metadata:
            names = json.loads(metadata[b"huggingface"])["info"]["features"][label_column].get("names")
            return None if names is None else tuple(str(name) for name in names)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Names are a courtesy: a foreign or odd description is as good as none.
        return None
    return None


def _parquet_chunks(
    files: list[Path], readers: list[Any], chosen: np.ndarray, config: ParquetConfig, labelled: bool
) -> Iterator[Chunk]:
    import pyarrow as pa

    first_row = 0
    columns = [config.image_column, config.label_column] if labelled else [config.image_column]
    for path, reader in zip(files, readers, strict=True):
        file_row = 0
        try:
            for batch in reader.iter_batches(batch_size=CHUNK, columns=columns):
                start = first_row + file_row
                low, high = np.searchsorted(chosen, [start, start + len(batch)])
                rows = chosen[low:high] - start
                yield _parquet_chunk(path, batch, rows, file_row, config)
                file_row += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error
        finally:
            reader.close()
        first_row += file_row


def _parquet_chunk(path: Path, batch: Any, rows: np.ndarray, file_row: int, config: ParquetConfig) -> Chunk:
    import pyarrow as pa

    labels = np.full(len(rows), -1, dtype=np.int64)
    if config.label_column in batch.schema.names:
        column = batch.column(config.label_column).take(pa.array(rows))
        if column.null_count:
            raise DataError(f"{path} has rows without a label in column {config.label_column!r}: remove or label them")
        labels = column.to_numpy(zero_copy_only=False).astype(np.int64)
    return Chunk(
        encoded_images(batch.column(config.image_column).take(pa.array(rows))),
        labels,
        lambda i: f"image {file_row + int(rows[i])} of {path}",
    )


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
        batches = open_parquet(path).iter_batches(ROW_BATCH, row_groups=[group], columns=[column])
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


def _claimed(path: Path) -> ParquetConfig | None:
    holds_parquet = bool(_files_in(path)) if path.is_dir() else path.suffix == ".parquet" or _begins_as_parquet(path)
    return ParquetConfig(path=str(path)) if holds_parquet else None


def _begins_as_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def _batches(config: ParquetConfig) -> list[Path] | None:
    from raydfkd.replay.arrow import holds_synthetic_batch

    files = parquet_files(config.path)
    return files if holds_synthetic_batch(files[0]) else None


DATASET = DatasetKind(
    config=ParquetConfig,
    title="Parquet files with a column of encoded images",
    open=open_parquet_source,
    rows=ParquetRows.open,
    claims=_claimed,
    batches=_batches,
    files=lambda config: parquet_files(config.path),
)
