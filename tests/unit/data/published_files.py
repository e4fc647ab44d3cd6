"""Data sets as they are published, and what became of them."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raydfkd.data import catalogue
from raydfkd.data.catalogue import CATALOGUE


def tarred(folder: Path) -> bytes:
    """A ``.tar.gz`` of what is in the folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return buffer.getvalue()


def change(monkeypatch: pytest.MonkeyPatch, name: str, **values: Any) -> None:
    """Changes an entry of the catalogue for this test."""
    monkeypatch.setitem(catalogue.CATALOGUE, name, replace(CATALOGUE[name], **values))


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def stored(root: Path, name: str, split: str) -> tuple[list[bytes], list[int], dict[str, Any]]:
    table = pq.read_table(root / name / f"{split}.parquet")
    return table["image"].to_pylist(), table["label"].to_pylist(), json.loads(table.schema.metadata[b"classes"])
