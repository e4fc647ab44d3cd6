"""A SyntheticBatch as an Arrow table with fixed-shape tensors, and back: the format of snapshots and surrogate sets on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raydfkd.errors import DataError
from raydfkd.types import SyntheticBatch

if TYPE_CHECKING:
    import pyarrow as pa

_METADATA_KEY = b"raydfkd.synthetic_batch"


def to_table(batch: SyntheticBatch) -> pa.Table:
    """Columns ``image`` (uint8 tensor [C,H,W]), ``target`` (int64, or int16 tensor [H,W]), ``teacher_class`` int32,
    ``teacher_confidence`` float32 and, if the batch has them, ``priority`` float32 and ``class_histogram`` (int32 tensor [K]);
    the rest is schema metadata.
    """
    import pyarrow as pa

    columns = {
        "image": _tensor_column(batch.images),
        "target": pa.array(batch.targets) if batch.targets.ndim == 1 else _tensor_column(batch.targets),
        "teacher_class": pa.array(batch.teacher_class),
        "teacher_confidence": pa.array(batch.teacher_confidence),
    }
    if batch.priorities is not None:
        columns["priority"] = pa.array(batch.priorities)
    if batch.class_histogram is not None:
        columns["class_histogram"] = _tensor_column(batch.class_histogram)
    described = {
        "source": batch.source,
        "generator_id": batch.generator_id,
        "student_version": int(batch.student_version),
        "metrics": {name: float(value) for name, value in batch.metrics.items()},
    }
    return pa.table(columns).replace_schema_metadata({_METADATA_KEY: json.dumps(described).encode()})


def from_table(table: pa.Table) -> SyntheticBatch:
    """The batch from which :func:`to_table` made the table; arrays are read-only views where Arrow allows.

    Raises:
        DataError: the table was not made by :func:`to_table`.
    """
    metadata = table.schema.metadata or {}
    if _METADATA_KEY not in metadata:
        raise DataError(
            "an Arrow table lacks the metadata 'raydfkd.synthetic_batch' and is not a synthetic batch: write it with raydfkd"
        )
    try:
        described = json.loads(metadata[_METADATA_KEY])
        return SyntheticBatch(
            images=_numpy(table.column("image")),
            targets=_numpy(table.column("target")),
            teacher_class=_numpy(table.column("teacher_class")),
            teacher_confidence=_numpy(table.column("teacher_confidence")),
            priorities=_numpy(table.column("priority")) if "priority" in table.column_names else None,
            class_histogram=_numpy(table.column("class_histogram")) if "class_histogram" in table.column_names else None,
            **described,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"an Arrow table of a synthetic batch is damaged ({error}): write it again") from error


def holds_synthetic_batch(file: Path) -> bool:
    """Whether a Parquet file has the metadata of :func:`to_table`; also False for a file that is not Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _METADATA_KEY in (pq.read_schema(file).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def to_parquet(batch: SyntheticBatch) -> bytes:
    """The table as an uncompressed Parquet file: noisy pixels do not compress."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(to_table(batch), sink, compression="NONE", use_dictionary=False)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def from_parquet(content: bytes) -> SyntheticBatch:
    """The batch of :func:`to_parquet`.

    Raises:
        DataError: it is not such a file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return from_table(pq.read_table(pa.BufferReader(content)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"a stored batch is not readable Parquet ({error})") from error


def _tensor_column(values: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    import pyarrow as pa

    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if isinstance(array, pa.FixedShapeTensorArray):
        return array.to_numpy_ndarray()
    return array.to_numpy(zero_copy_only=False)
