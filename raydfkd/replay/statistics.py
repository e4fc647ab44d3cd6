"""Figures and arrays that describe a buffer, for the log and the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from raydfkd.types import WeightsVersion

if TYPE_CHECKING:
    from raydfkd.replay.buffer import ReplayBuffer
    from raydfkd.replay.buffer_table import Table

NUM_HISTOGRAM_BINS = 20


def relative_entropy(counts: np.ndarray) -> float:
    """H / log K of a class histogram [K], in [0,1]; 1 is balanced. 0 where there is nothing or one class to choose from."""
    total = counts.sum()
    if total == 0 or len(counts) < 2:
        return 0.0
    shares = counts[counts > 0] / total
    # Rounding puts equal counts above 1, and a single class at -0.
    return min(1.0, max(0.0, float(-(shares * np.log(shares)).sum() / np.log(len(counts)))))


def buffer_statistics(buffer: ReplayBuffer, newest_version: Callable[[str], WeightsVersion] | None = None) -> dict[str, Any]:
    """Figures over all tables: the values of a ``replay`` metrics record (see ``run_dir``), and per-table sizes.

    ``priority_*`` are over all consumers' raw priorities, ``priority_histogram`` has ``edges`` [21] evenly spaced in log10
    and ``counts`` [20]. ``item_age_mean`` is in batches inserted since. ``staleness_rounds`` is the mean over items of the
    newest version of their student's weights (``newest_version`` of their generator's name; without it: the newest among the
    items) minus the version that their generator had; items of unknown version do not count.
    """
    counts = sum((table.storage.class_counts for table in buffer.tables.values()), np.zeros(buffer.num_classes, np.int64))
    priorities = np.concatenate([table.priorities[:, table.storage.live].ravel() for table in buffer.tables.values()])
    arrays = {name: _table_arrays(table, buffer.num_shards, 0) for name, table in buffer.tables.items()}
    ages = np.concatenate([a["ages"] for a in arrays.values()])
    return {
        "size": buffer.size,
        "capacity": buffer.total_slots,
        "pinned_fraction": buffer.pinned_fraction,
        "class_counts": counts,
        "class_entropy": relative_entropy(counts),
        "bytes": buffer.num_bytes,
        "inserts": buffer.num_inserts,
        "samples": buffer.num_samples,
        "dropped_updates": buffer.num_dropped_updates,
        "invalid_updates": buffer.num_invalid_updates + sum(t.num_invalid_priorities for t in buffer.tables.values()),
        "priority_mean": float(priorities.mean(dtype=np.float64)) if len(priorities) else 0.0,
        "priority_max": float(priorities.max()) if len(priorities) else 0.0,
        "priority_histogram": _histogram(priorities),
        "item_age_mean": float(ages.mean()) if len(ages) else 0.0,
        "staleness_rounds": _staleness(buffer, newest_version),
        "tables": {
            name: {"size": t.storage.size, "capacity": t.storage.capacity, "bytes": t.storage.num_bytes}
            for name, t in buffer.tables.items()
        },
    }


def buffer_arrays(buffer: ReplayBuffer, consumer: int) -> dict[str, np.ndarray]:
    """``priorities``, ``teacher_class``, ``teacher_confidence``, ``ages``, ``source``, ``student_version``, each [size]."""
    parts = [_table_arrays(table, buffer.num_shards, consumer) for table in buffer.tables.values()]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _table_arrays(table: Table, num_shards: int, consumer: int) -> dict[str, np.ndarray]:
    storage = table.storage
    live = np.flatnonzero(storage.live)
    shards = list(storage.shards.values())
    which = np.searchsorted(np.array([s.shard_id for s in shards], dtype=np.int64), storage.shard_ids[live])
    return {
        "priorities": table.priorities[consumer, live],
        "teacher_class": storage.classes[live],
        "teacher_confidence": storage.confidences[live],
        "ages": num_shards - 1 - storage.shard_ids[live],
        "source": np.array([s.source for s in shards], dtype=np.str_)[which],
        "student_version": np.array([s.student_version for s in shards], dtype=np.int64)[which],
    }


def _histogram(priorities: np.ndarray) -> dict[str, list[float]]:
    positive = priorities[priorities > 0]
    if len(positive) == 0:
        return {"edges": [], "counts": []}
    logs = np.log10(positive.astype(np.float64))
    counts, edges = np.histogram(logs, bins=NUM_HISTOGRAM_BINS)
    return {"edges": (10.0**edges).tolist(), "counts": counts.tolist()}


def _staleness(buffer: ReplayBuffer, newest_version: Callable[[str], WeightsVersion] | None) -> float:
    shards = [shard for table in buffer.tables.values() for shard in table.storage.shards.values()]
    known = [shard for shard in shards if shard.student_version >= 0]
    if not known:
        return 0.0
    largest = max(shard.student_version for shard in known)
    behind = [
        (largest if newest_version is None else newest_version(shard.generator_id)) - shard.student_version for shard in known
    ]
    return float(np.average(behind, weights=[shard.num_live for shard in known]))
