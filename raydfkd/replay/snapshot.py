"""A buffer on disk: each shard's pixels written once as Parquet, the index as .npz, and a manifest that lists them.

The manifest is replaced last and atomically, and nothing the old one names is changed before that, so that a kill at any
moment leaves a complete snapshot, old or new.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.errors import DataError
from raydfkd.replay.arrow import from_parquet, to_parquet
from raydfkd.replay.buffer import ReplayBuffer, ShardView
from raydfkd.run_dir import write_atomically
from raydfkd.types import SyntheticBatch

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


def _payload_itself(view: ShardView) -> SyntheticBatch:
    batch: SyntheticBatch = view.payload
    return batch


def write_snapshot(
    folder: Path,
    buffer: ReplayBuffer,
    get_batch: Callable[[ShardView], SyntheticBatch] = _payload_itself,
    lock: AbstractContextManager[Any] | None = None,
) -> int:
    """Brings the snapshot in ``folder`` up to date; returns the bytes written.

    Args:
        get_batch: the pixels of a shard; called without the lock, and only for shards that this buffer has not written
            here before. It gets the view, whose payload stays valid even if the shard is evicted meanwhile.
        lock: held while the index is copied, for callers with other threads.
    """
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    with lock or nullcontext():
        state = buffer.state_dict()
        views = deque(buffer.shards_after(-1))
    written = _written_before(folder, buffer.identity)
    num_bytes = 0
    shards: dict[str, Any] = {}
    while views:
        # Released one by one: a view holds its payload, and evicted data should not be kept until the last shard is written.
        view = views.popleft()
        known = written.get(str(view.shard_id))
        if known is None:
            known = _write_part(folder, f"shards/{buffer.identity}-{view.shard_id:08d}.parquet", to_parquet(get_batch(view)))
            num_bytes += int(known["bytes"])
        shards[str(view.shard_id)] = known
    packed = io.BytesIO()
    np.savez(packed, **state)  # type: ignore[arg-type]
    index = _write_part(folder, f"index-{buffer.identity}-{buffer.num_batches:08d}-{buffer.num_samples}.npz", packed.getvalue())
    manifest = {"format": FORMAT_VERSION, "identity": buffer.identity, "index": index, "shards": shards}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    _remove_unnamed(folder, manifest)
    return num_bytes + int(index["bytes"])


def read_snapshot(folder: Path) -> tuple[dict[str, np.ndarray], list[tuple[int, SyntheticBatch]]]:
    """The index state (for ``ReplayBuffer.load_state_dict``) and (shard id, batch) of every live shard, in order.

    Raises:
        DataError: there is no snapshot, or part of it is missing, truncated or damaged.
    """
    manifest = _read_manifest(folder)
    try:
        parts = [(int(shard_id), _read_part(folder, part)) for shard_id, part in manifest["shards"].items()]
        packed = _read_part(folder, manifest["index"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"snapshot manifest {folder / MANIFEST} is damaged ({error}): use an older snapshot") from error
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            state = dict(arrays)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"snapshot index in {folder} cannot be read ({error}): use an older snapshot") from error
    return state, [(shard_id, _read_batch(folder, shard_id, content)) for shard_id, content in sorted(parts)]


def _read_batch(folder: Path, shard_id: int, content: bytes) -> SyntheticBatch:
    try:
        return from_parquet(content)
    except DataError as error:
        raise DataError(f"shard {shard_id} of snapshot {folder} cannot be read ({error}): use an older snapshot") from error


def _write_part(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    write_atomically(folder / name, content)
    return {"file": name, "bytes": len(content), "crc32": zlib.crc32(content)}


def _read_part(folder: Path, part: dict[str, Any]) -> bytes:
    path = folder / str(part["file"])
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"snapshot part {path} cannot be read ({error.strerror}): use an older snapshot") from error
    if len(content) != part["bytes"]:
        raise DataError(f"snapshot part {path} has {len(content)} of its {part['bytes']} bytes: use an older snapshot")
    if zlib.crc32(content) != part["crc32"]:
        raise DataError(f"snapshot part {path} is damaged (its checksum differs): use an older snapshot")
    return content


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{folder} holds no replay snapshot ({path.name}: {error.strerror}): give a folder with one") from error
    except ValueError as error:
        raise DataError(f"snapshot manifest {path} is damaged ({error}): use an older snapshot") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
        raise DataError(f"snapshot manifest {path} is not of format {FORMAT_VERSION}: use a snapshot of this version")
    return manifest


def _written_before(folder: Path, identity: str) -> dict[str, Any]:
    """Parts of this buffer in a complete snapshot. A damaged one, or one of another buffer, is ignored and replaced."""
    try:
        manifest = _read_manifest(folder)
    except DataError:
        return {}
    shards: dict[str, Any] = manifest["shards"] if manifest.get("identity") == identity else {}
    return shards


def _remove_unnamed(folder: Path, manifest: dict[str, Any]) -> None:
    named = {part["file"] for part in (*manifest["shards"].values(), manifest["index"])}
    for path in (*folder.glob("shards/*"), *folder.glob("index-*.npz"), *folder.glob(".index-*.tmp")):
        if path.relative_to(folder).as_posix() not in named:
            path.unlink(missing_ok=True)
