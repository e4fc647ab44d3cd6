"""Images in Parquet files: encoded, or as the uint8 tensors that raydfkd writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from raydfkd.data.dataset_kind import CHUNK, Chunk, DatasetConfig, DatasetKind, Rows, Source, evenly_spaced
from raydfkd.data.decoding import open_encoded
from raydfkd.data.file_tree import is_hidden
from raydfkd.errors import DataError
from raydfkd.settings import InputFile

if TYPE_CHECKING:
    from PIL.Image import Image

Beside = Literal["label_column", "mask_column"]
"""The setting that names the column read beside the images."""

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

    mask_column: str = "mask"
    """Column of encoded masks, for tasks with a class for each pixel: pictures of one channel whose values are classes."""

    ignore_index: int | None = Field(default=None, ge=0, le=255)
    """Value in masks of pixels that do not count; null: the one in the files' metadata, if any."""

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
    return _opened(config, "label_column" if labelled else None)


def open_parquet_masks(config: ParquetConfig) -> Source:
    return _opened(config, "mask_column")


def _opened(config: ParquetConfig, beside: Beside | None) -> Source:
    import pyarrow as pa

    files = parquet_files(config.path)
    readers: list[Any] = []
    for path in files:
        try:
            readers.append(open_parquet(path))
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error
        check_columns(path, readers[-1].schema_arrow, config, beside)
    description = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    total = sum(reader.metadata.num_rows for reader in readers)
    chosen = evenly_spaced(total, config.max_images)
    metadata = readers[0].schema_arrow.metadata or {}
    classes = _parquet_classes(metadata, config.label_column)
    chunks = _parquet_chunks(files, readers, chosen, config, beside)
    opener = parquet_opener(readers[0].schema_arrow.field(config.image_column).type)
    source = Source(files[0].stem, description, len(chosen), classes, opener, chunks)
    if beside != "mask_column":
        return source
    recorded = metadata.get(b"ignore_index", b"").decode()
    ignored = int(recorded) if config.ignore_index is None and recorded.isdecimal() else config.ignore_index
    return replace(source, mask_opener=open_encoded, ignore_index=ignored)


def open_parquet(path: Path) -> Any:
    """The ``ParquetFile`` of a path, which streams a row group's pages: by default, all of a column's would be read at once."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def damaged(path: Path, error: Exception) -> DataError:
    """The refusal of a file that Arrow cannot read."""
    reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    return DataError(f"{path} cannot be read as Parquet ({reason}): it is damaged, incomplete or another format")


def check_columns(path: Path, schema: Any, config: ParquetConfig, beside: Beside | None) -> None:
    """Raises DataError if a column that will be read, the images' or the one ``beside`` it, is missing or holds something
    else."""
    import pyarrow as pa

    for setting in ("image_column", *([] if beside is None else [beside])):
        column = getattr(config, setting)
        if column not in schema.names:
            raise DataError(f"{path} has no column {column!r} (it has {', '.join(schema.names)}): correct {setting}")
    if beside == "label_column" and not pa.types.is_integer(label := schema.field(config.label_column).type):
        raise DataError(f"{path} column {config.label_column!r} holds {label}, not integer classes: correct label_column")
    if not holds_pixels(_encoded_type(schema.field(config.image_column).type)):
        _require_encoded(path, schema, config, "image_column")
    if beside == "mask_column":
        _require_encoded(path, schema, config, "mask_column")


def _require_encoded(path: Path, schema: Any, config: ParquetConfig, setting: str) -> None:
    import pyarrow as pa

    column = getattr(config, setting)
    held = _encoded_type(schema.field(column).type)
    if not (pa.types.is_binary(held) or pa.types.is_large_binary(held)):
        raise DataError(f"{path} column {column!r} holds {held}, not encoded image bytes: correct {setting}")


def _encoded_type(column_type: Any) -> Any:
    """Of Hugging Face's ``struct<bytes, path>``, the type of the bytes."""
    import pyarrow as pa

    if pa.types.is_struct(column_type) and column_type.get_field_index("bytes") >= 0:
        return column_type.field("bytes").type
    return column_type


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
    files: list[Path], readers: list[Any], chosen: np.ndarray, config: ParquetConfig, beside: Beside | None
) -> Iterator[Chunk]:
    import pyarrow as pa

    first_row = 0
    columns = [config.image_column, *([] if beside is None else [getattr(config, beside)])]
    for path, reader in zip(files, readers, strict=True):
        file_row = 0
        try:
            for batch in reader.iter_batches(batch_size=CHUNK, columns=columns):
                start = first_row + file_row
                low, high = np.searchsorted(chosen, [start, start + len(batch)])
                rows = chosen[low:high] - start
                yield _parquet_chunk(path, batch, rows, file_row, config, beside)
                file_row += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error
        finally:
            reader.close()
        first_row += file_row


def _parquet_chunk(
    path: Path, batch: Any, rows: np.ndarray, file_row: int, config: ParquetConfig, beside: Beside | None
) -> Chunk:
    import pyarrow as pa

    labels, masks = np.full(len(rows), -1, dtype=np.int64), None
    if beside == "mask_column":
        masks = encoded_images(batch.column(config.mask_column).take(pa.array(rows)))
    elif beside == "label_column":
        column = batch.column(config.label_column).take(pa.array(rows))
        if column.null_count:
            raise DataError(f"{path} has rows without a label in column {config.label_column!r}: remove or label them")
        labels = column.to_numpy(zero_copy_only=False).astype(np.int64)
    return Chunk(
        encoded_images(batch.column(config.image_column).take(pa.array(rows))),
        labels,
        lambda i: f"image {file_row + int(rows[i])} of {path}",
        masks,
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
                    check_columns(path, file.schema_arrow, config, None)
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
    open_masks=open_parquet_masks,
)
