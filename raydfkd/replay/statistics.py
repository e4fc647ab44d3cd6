"""Figures and arrays that describe the tables of a buffer, for the log and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from raydfkd.replay.buffer_table import Table
from raydfkd.replay.storage import Storage
from raydfkd.types import WeightsVersion


def relative_entropy(counts: np.ndarray) -> float:
    """H / log K of a class histogram [K], in [0,1]; 1 is balanced. 0 if empty or with a single class."""
    total = counts.sum()
    if total == 0 or len(counts) < 2:
        return 0.0
    shares = counts[counts > 0] / total
    # Rounding puts equal counts above 1, and a single class at -0.
    return min(1.0, max(0.0, float(-(shares * np.log(shares)).sum() / np.log(len(counts)))))


def table_statistics(
    tables: Mapping[str, Table], num_shards: int, newest_version: Callable[[str], WeightsVersion] | None = None
) -> dict[str, Any]:
    """Statistics over all tables, and their sizes.

    ``class_counts`` int64 [K] and ``class_entropy`` are of positions (see ``SyntheticBatch``), ``priority_*`` of all consumers'
    raw priorities. ``item_age_mean`` is in batches inserted since. ``staleness_rounds`` is the mean over items of the newest
    version of their student's weights (``newest_version`` of their generator's name; without it: the newest among the items)
    minus the version that their generator had; items of unknown version do not count.

    Args:
        num_shards: batches inserted so far, in all tables.
    """
    storages = {name: table.storage for name, table in tables.items()}
    size, capacity = (sum(getattr(storage, name) for storage in storages.values()) for name in ("size", "capacity"))
    counts: np.ndarray = np.sum([storage.class_counts for storage in storages.values()], axis=0)
    priorities = np.concatenate([table.priorities[:, table.storage.live].ravel() for table in tables.values()])
    ages = np.concatenate([_ages(storage, num_shards)[storage.live] for storage in storages.values()])
    return {
        "size": size,
        "capacity": capacity,
        "fill": size / capacity,
        "class_counts": counts,
        "class_entropy": relative_entropy(counts),
        "bytes": sum(storage.num_bytes for storage in storages.values()),
        "priority_mean": float(priorities.mean(dtype=np.float64)) if len(priorities) else 0.0,
        "priority_max": float(priorities.max()) if len(priorities) else 0.0,
        "item_age_mean": float(ages.mean()) if len(ages) else 0.0,
        "staleness_rounds": _staleness(storages, newest_version),
        "tables": {name: {"size": s.size, "capacity": s.capacity, "bytes": s.num_bytes} for name, s in storages.items()},
    }


def table_arrays(tables: Mapping[str, Table], num_shards: int, consumer: int) -> dict[str, np.ndarray]:
    """``priorities``, ``teacher_class``, ``teacher_confidence``, ``ages``, ``source``, ``student_version``, each [size]."""
    parts = [_arrays_of(table, num_shards, consumer) for table in tables.values()]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _arrays_of(table: Table, num_shards: int, consumer: int) -> dict[str, np.ndarray]:
    storage = table.storage
    live = np.flatnonzero(storage.live)
    shards = list(storage.shards.values())
    which = np.searchsorted(np.array([s.shard_id for s in shards], dtype=np.int64), storage.shard_ids[live])
    return {
        "priorities": table.priorities[consumer, live],
        "teacher_class": storage.classes[live],
        "teacher_confidence": storage.confidences[live],
        "ages": _ages(storage, num_shards)[live],
        "source": np.array([s.source for s in shards], dtype=np.str_)[which],
        "student_version": np.array([s.student_version for s in shards], dtype=np.int64)[which],
    }


def _ages(storage: Storage, num_shards: int) -> np.ndarray:
    """int64 [capacity], batches inserted since the item of each slot."""
    ages: np.ndarray = num_shards - 1 - storage.shard_ids
    return ages


def _staleness(storages: Mapping[str, Storage], newest_version: Callable[[str], WeightsVersion] | None) -> float:
    shards = [shard for storage in storages.values() for shard in storage.shards.values()]
    known = [shard for shard in shards if shard.student_version >= 0]
    if not known:
        return 0.0
    largest = max(shard.student_version for shard in known)
    behind = [
        (largest if newest_version is None else newest_version(shard.generator_id)) - shard.student_version for shard in known
    ]
    return float(np.average(behind, weights=[shard.num_live for shard in known]))
