"""Checksums of data sets: SHA-256 of the files that hold them, kept in ``checksums.json`` beside those that fetch wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from raydfkd.data.dataset_kind import DatasetConfig
from raydfkd.data.kinds import DATASETS
from raydfkd.run_dir import write_atomically

FILE_NAME = "checksums.json"
"""File name to ``sha256``, ``bytes``, ``modified_ns`` and ``images`` of each of a folder's files."""
_READ_BYTES = 1 << 20


def checksum_of(config: DatasetConfig) -> str | None:
    """SHA-256, in hexadecimal, of the file that holds a data set; of several files, that of their checksums one per line.

    Returns:
        None for a data set that is not in a few files, such as a folder of images.

    Raises:
        DataError: it is not there.
    """
    files_of = DATASETS.get(config.kind).files
    files = None if files_of is None else files_of(config)
    if not files:
        return None
    sums = [sha256_of(path) for path in files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(f"{one}\n" for one in sums).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read from the record beside it if that is about these bytes, and otherwise once in a process."""
    state = path.stat()
    recorded = recorded_checksums(path.parent).get(path.name, {})
    if (recorded.get("bytes"), recorded.get("modified_ns")) == (state.st_size, state.st_mtime_ns):
        return str(recorded["sha256"])
    return _computed(path.absolute(), state.st_size, state.st_mtime_ns)


def record_checksum(path: Path, images: int) -> str:
    """Computes a file's SHA-256 and records it beside the file, with the number of its images."""
    state = path.stat()
    found = digest(path, "sha256")
    entry = {"sha256": found, "bytes": state.st_size, "modified_ns": state.st_mtime_ns, "images": images}
    records = {**recorded_checksums(path.parent), path.name: entry}
    write_atomically(path.parent / FILE_NAME, json.dumps(records, indent=1, sort_keys=True) + "\n")
    return found


def recorded_checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """What ``checksums.json`` of a folder says; nothing if there is none, or if it is not as we write it."""
    try:
        records = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(records, dict):
        return {}
    return {name: one for name, one in records.items() if isinstance(one, dict) and "sha256" in one}


def digest(path: Path, algorithm: str, tell: Callable[[int], None] = lambda done: None) -> str:
    """Checksum of a file in hexadecimal.

    Args:
        algorithm: ``md5`` or ``sha256``.
        tell: gets the number of bytes read so far.
    """
    checksum = hashlib.new(algorithm, usedforsecurity=False)
    done = 0
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            checksum.update(part)
            done += len(part)
            tell(done)
    return checksum.hexdigest()


@lru_cache(maxsize=64)
def _computed(path: Path, size: int, modified_ns: int) -> str:
    """The checksum of the file in this state."""
    return digest(path, "sha256")
