"""Small real files for the readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write_parquet(tmp_path: Path) -> Callable[..., Path]:
    """Writes a labelled Parquet file: ``write(images, labels, classes=, name=, struct=, columns=)``."""

    def write(images, labels, classes=None, name="images.parquet", struct=False, columns=("image", "label")) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        column = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)] if struct else list(images)
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
        arrays = [pa.array(column, kind), pa.array(labels)]
        table = pa.table(dict(zip(columns, arrays, strict=True)))
        if classes is not None:
            table = table.replace_schema_metadata({"classes": json.dumps(classes)})
        path = tmp_path / name
        pq.write_table(table, path, row_group_size=4)
        return path

    return write


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data root, not made yet."""
    root = tmp_path / "root"
    monkeypatch.setenv("RAYDFKD_DATA", str(root))
    return root
