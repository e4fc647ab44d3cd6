"""Writes a split as one Parquet file: encoded images with labels or masks, class names in its metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydfkd.data.decoding import DAMAGE, open_encoded
from raydfkd.data.fetching.downloader import Tell
from raydfkd.data.fetching.layouts import SplitImages, rows_of
from raydfkd.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

ROWS = 5_000
"""Rows of a row group at most."""
GROUP_BYTES = 64 << 20
"""Encoded bytes after which a row group ends, whatever its rows."""
_KEPT = ("JPEG", "PNG")
"""Formats whose files are stored as they are."""


def write_split(images: SplitImages, channels: int, ignore_index: int | None, path: Path, tell: Tell) -> tuple[int, list[str]]:
    """Writes the images atomically.

    JPEG and PNG files of as many channels as the data set has are stored byte by byte; every other image is stored as PNG of
    these channels.

    Args:
        channels: 1 or 3.
        ignore_index: of masks, for the metadata.
        path: of the Parquet file.
        tell: told of progress, in images.

    Returns:
        how many were written, and which could not be read and were left out.

    Raises:
        DataError: none could be read, or the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    beside = pa.field("label", pa.int32()) if images.masks is None else pa.field("mask", pa.binary())
    metadata = {"classes": json.dumps(images.classes)}
    if images.masks is not None and ignore_index is not None:
        metadata["ignore_index"] = str(ignore_index)
    schema = pa.schema([pa.field("image", pa.binary()), beside], metadata=metadata)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    written, left_out = 0, list[str]()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in _groups(images, channels, path, left_out, tell):
                columns = [pa.array(column, one.type) for column, one in zip(zip(*group, strict=True), schema, strict=True)]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=ROWS)
                written += len(group)
        if written == 0:
            raise DataError(f"none of the {images.total} images for {path} can be read (the first: {left_out[0]})")
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error}): free some space, or choose another folder by --out") from error
    finally:
        with suppress(OSError):  # already moved if all went well
            temporary.unlink()
    return written, left_out


def _groups(
    images: SplitImages, channels: int, path: Path, left_out: list[str], tell: Tell
) -> Iterator[list[tuple[bytes, int | bytes]]]:
    """Rows of row groups; names of images that cannot be read are added to ``left_out``."""
    group: list[tuple[bytes, int | bytes]] = []
    size = 0
    for number, (item, beside) in enumerate(rows_of(images)):
        tell(f"writing {path.name}", number, images.total)
        try:
            content = encoded_image(item, channels)
            stored = beside.read_bytes() if isinstance(beside, Path) else beside
        except DAMAGE as error:
            left_out.append(f"{item if isinstance(item, Path) else f'image {number}'} ({error})")
            continue
        group.append((content, stored))
        size += len(content)
        if len(group) == ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    tell(f"writing {path.name}", images.total, images.total)
    if group:
        yield group


def encoded_image(item: Any, channels: int) -> bytes:
    """The bytes to store of an image file or an image. One of ``DAMAGE``: it cannot be read."""
    mode = "L" if channels == 1 else "RGB"
    if not isinstance(item, Path):
        return _as_png(item, mode)
    content = item.read_bytes()
    with open_encoded(content) as image:
        if image.format in _KEPT and image.mode == mode:
            return content
        return _as_png(image, mode)


def _as_png(image: Image, mode: str) -> bytes:
    buffer = BytesIO()
    (image if image.mode == mode else image.convert(mode)).save(buffer, format="PNG")
    return buffer.getvalue()
