"""A buffer's index as a flat dict of plain numpy arrays, and back. No pickles: strings travel as JSON in a 0-d array."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from raydfkd.errors import DataError
from raydfkd.replay.storage import Shard

if TYPE_CHECKING:
    from raydfkd.replay.buffer import ReplayBuffer
    from raydfkd.replay.buffer_table import Table

FORMAT_VERSION = 2

_STORAGE_ARRAYS = ("keys", "live", "classes", "confidences", "shard_ids", "rows", "class_counts")
_COUNTERS = ("num_shards", "num_batches", "num_inserts", "num_samples", "num_dropped_updates", "num_invalid_updates")


def dump(buffer: ReplayBuffer, rngs: list[np.random.Generator], carries: np.ndarray) -> dict[str, np.ndarray]:
    """Everything but the payloads; no array is shared with the buffer."""
    header = {
        "format": FORMAT_VERSION,
        "shape": _shape(buffer),
        "counters": {name: getattr(buffer, name) for name in _COUNTERS},
        "rngs": [rng.bit_generator.state for rng in rngs],
    }
    dumped = {"header": np.array(json.dumps(header)), "carries": carries.copy()}
    for name, table in buffer.tables.items():
        dumped.update({f"{name}/{key}": value for key, value in _dump_table(table).items()})
    return dumped


def load(
    buffer: ReplayBuffer, rngs: list[np.random.Generator], loaded: Mapping[str, np.ndarray], payloads: Mapping[int, Any]
) -> np.ndarray:
    """Fills ``buffer`` and ``rngs`` from ``loaded``; returns the carries.

    Raises:
        DataError: the state is of another buffer, or an array is missing or of another size.
    """
    try:
        header = json.loads(str(loaded["header"]))
        if header["format"] != FORMAT_VERSION or header["shape"] != _shape(buffer):
            raise DataError(
                f"a replay state of {header['shape']} (format {header['format']}) does not fit a buffer of {_shape(buffer)}: "
                "use the experiment that it was saved with"
            )
        for name, table in buffer.tables.items():
            prefix = f"{name}/"
            _load_table(table, {k[len(prefix) :]: v for k, v in loaded.items() if k.startswith(prefix)}, payloads)
        for counter in _COUNTERS:
            setattr(buffer, counter, int(header["counters"][counter]))
        for rng, rng_state in zip(rngs, header["rngs"], strict=True):
            rng.bit_generator.state = rng_state
        return loaded["carries"].astype(np.float64)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise DataError(f"a replay state is damaged ({error}): use an older snapshot or start without it") from error


def _shape(buffer: ReplayBuffer) -> dict[str, Any]:
    """What must agree between a saved buffer and the one that takes its place (as JSON gives it back)."""
    return {
        "tables": {n: [t.config.capacity, t.config.sampler.kind, t.config.remover.kind] for n, t in buffer.tables.items()},
        "num_classes": buffer.num_classes,
        "consumers": list(buffer.consumers),
    }


def _dump_table(table: Table) -> dict[str, np.ndarray]:
    storage = table.storage
    shards = list(storage.shards.values())
    dumped = {name: getattr(storage, name).copy() for name in _STORAGE_ARRAYS}
    dumped["priorities"] = table.priorities.copy()
    dumped["num_invalid_priorities"] = np.array(table.num_invalid_priorities)
    texts = [[s.source, s.generator_id] for s in shards]
    numbers = [[s.shard_id, len(s.slots), s.num_bytes, s.num_live, s.student_version] for s in shards]
    dumped["shard_texts"] = np.array(json.dumps(texts))
    dumped["shard_numbers"] = np.array(numbers, dtype=np.int64).reshape(len(shards), 5)
    dumped["shard_slots"] = np.concatenate([s.slots for s in shards] or [np.empty(0, np.int32)])
    dumped["shard_keys"] = np.concatenate([s.keys for s in shards] or [np.empty(0, np.int64)])
    for which, selector in enumerate((*table.samplers, table.remover)):
        dumped.update({f"selector{which}/{key}": value for key, value in selector.state_dict().items()})
    return dumped


def _load_table(table: Table, loaded: Mapping[str, np.ndarray], payloads: Mapping[int, Any]) -> None:
    storage = table.storage
    for name in _STORAGE_ARRAYS:
        _fill(getattr(storage, name), loaded[name])
    _fill(table.priorities, loaded["priorities"])
    table.num_invalid_priorities = int(loaded["num_invalid_priorities"])
    storage.size = int(storage.live.sum())
    storage.shards = {}
    start = 0
    numbers, texts = loaded["shard_numbers"], json.loads(str(loaded["shard_texts"]))
    for (shard_id, rows, num_bytes, num_live, version), (source, generator_id) in zip(numbers.tolist(), texts, strict=True):
        storage.shards[shard_id] = Shard(
            shard_id=shard_id,
            payload=payloads.get(shard_id),
            slots=loaded["shard_slots"][start : start + rows].copy(),
            keys=loaded["shard_keys"][start : start + rows].copy(),
            num_bytes=num_bytes,
            num_live=num_live,
            source=source,
            generator_id=generator_id,
            student_version=version,
        )
        start += rows
    storage.num_bytes = sum(shard.num_bytes for shard in storage.shards.values())
    for which, selector in enumerate((*table.samplers, table.remover)):
        prefix = f"selector{which}/"
        selector.load_state_dict({k[len(prefix) :]: v for k, v in loaded.items() if k.startswith(prefix)})


def _fill(target: np.ndarray, source: np.ndarray) -> None:
    if target.shape != source.shape:
        raise ValueError(f"an array has shape {source.shape} where {target.shape} is needed")
    target[...] = source
