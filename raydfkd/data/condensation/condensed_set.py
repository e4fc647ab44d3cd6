"""A condensed set on disk: a Parquet file of labelled images that says what it was made of, and how.

Columns ``image`` (PNG), ``label`` (int32) and, for sets with soft labels, ``probabilities`` (float32 list); metadata
``classes`` (JSON list of names) and ``condensation`` (JSON object). Every reader of labelled Parquet files reads it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.errors import DataError
from raydfkd.run_dir import write_atomically

METADATA_KEY = b"condensation"


@dataclass(frozen=True)
class CondensedSet:
    """A few labelled images that stand for many.

    Attributes:
        images: uint8 [N,C,H,W].
        labels: int64 [N].
        classes: the K class names.
        probabilities: soft labels, float32 [N,K]; None: the labels alone.
        about: method, settings, normalisation, data set and its checksum, as JSON has it.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    probabilities: np.ndarray | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


def save_condensed(found: CondensedSet, path: Path) -> None:
    """Writes the file atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "image": pa.array([_png(image) for image in found.images], pa.binary()),
        "label": pa.array(found.labels, pa.int32()),
    }
    if found.probabilities is not None:
        columns["probabilities"] = pa.array(list(found.probabilities), pa.list_(pa.float32()))
    metadata = {b"classes": json.dumps(found.classes).encode(), METADATA_KEY: json.dumps(found.about, sort_keys=True).encode()}
    buffer = BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def load_condensed(path: Path) -> CondensedSet:
    """Reads a file that :func:`save_condensed` wrote.

    Raises:
        DataError: it is not there, or another file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"condensed set {path} does not exist: correct its path, or make it with raydfkd condense")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}): it is damaged or another format"
        ) from error
    metadata = table.schema.metadata or {}
    if METADATA_KEY not in metadata:
        raise DataError(f"{path} is no condensed set: give a file that raydfkd condense wrote")
    soft = np.array(table["probabilities"].to_pylist(), np.float32) if "probabilities" in table.column_names else None
    return CondensedSet(
        np.stack([_pixels(content) for content in table["image"].to_pylist()]),
        table["label"].to_numpy().astype(np.int64),
        tuple(json.loads(metadata[b"classes"])),
        soft,
        json.loads(metadata[METADATA_KEY]),
    )


def _png(image_CHW: np.ndarray) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    pixels = image_CHW[0] if len(image_CHW) == 1 else np.ascontiguousarray(image_CHW.transpose(1, 2, 0))
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _pixels(content: bytes) -> np.ndarray:
    """uint8 [C,H,W]."""
    from PIL import Image

    with Image.open(BytesIO(content)) as image:
        pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def to_bytes(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Pixel values uint8 of normalised images float [N,C,H,W], cut off at black and white."""
    shape = (1, -1, 1, 1)
    plain = images * np.asarray(std, np.float32).reshape(shape) + np.asarray(mean, np.float32).reshape(shape)
    return np.round(np.clip(plain, 0, 1) * 255).astype(np.uint8)
