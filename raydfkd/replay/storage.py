"""The index of one table: which slots are taken, by which item, of which shard. Pixels are elsewhere (see ``buffer``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from raydfkd.types import SyntheticBatch, WeightsVersion


@dataclass
class Shard:
    """One inserted batch. ``slots`` are global; a row is live while its slot still holds its key."""

    shard_id: int
    payload: Any
    slots: np.ndarray
    keys: np.ndarray
    num_bytes: int
    num_live: int
    source: str
    generator_id: str
    student_version: WeightsVersion


class Storage:
    """Slots ``first_slot .. first_slot + capacity - 1`` of the ``total_slots`` of a buffer, and the shards that fill them.

    Arrays are [capacity], by local slot (global slot - first_slot). ``keys`` holds the last tenant's key also after it left,
    so the next tenant's is ``total_slots`` more and no key comes twice.
    """

    def __init__(self, capacity: int, first_slot: int, total_slots: int, num_classes: int) -> None:
        self.capacity = capacity
        self.first_slot = first_slot
        self._total_slots = total_slots
        self.keys = np.arange(first_slot, first_slot + capacity, dtype=np.int64) - total_slots
        self.live = np.zeros(capacity, dtype=bool)
        self.classes = np.zeros(capacity, dtype=np.int32)
        self.confidences = np.zeros(capacity, dtype=np.float32)
        self.shard_ids = np.full(capacity, -1, dtype=np.int64)
        self.rows = np.zeros(capacity, dtype=np.int32)
        self.class_counts = np.zeros(num_classes, dtype=np.int64)
        self.shards: dict[int, Shard] = {}
        self.size = 0
        self.num_bytes = 0

    @property
    def num_free(self) -> int:
        return self.capacity - self.size

    def insert(self, shard_id: int, batch: SyntheticBatch, payload: Any) -> np.ndarray:
        """Gives the batch's rows free slots (there must be enough) and returns them, local, in row order."""
        count = len(batch)
        slots = np.flatnonzero(~self.live)[:count]
        self.keys[slots] += self._total_slots
        self.live[slots] = True
        self.classes[slots] = batch.teacher_class
        self.confidences[slots] = batch.teacher_confidence
        self.shard_ids[slots] = shard_id
        self.rows[slots] = np.arange(count)
        self.class_counts += np.bincount(batch.teacher_class, minlength=len(self.class_counts))
        self.size += count
        self.num_bytes += batch.num_bytes
        self.shards[shard_id] = Shard(
            shard_id=shard_id,
            payload=payload,
            slots=(slots + self.first_slot).astype(np.int32),
            keys=self.keys[slots].copy(),
            num_bytes=batch.num_bytes,
            num_live=count,
            source=batch.source,
            generator_id=batch.generator_id,
            student_version=batch.student_version,
        )
        return slots

    def remove(self, slots: np.ndarray) -> list[int]:
        """Frees distinct live local slots; returns the shards of which no row is left, in order of age."""
        self.live[slots] = False
        self.class_counts -= np.bincount(self.classes[slots], minlength=len(self.class_counts))
        self.size -= len(slots)
        retired = []
        for shard_id, count in zip(*np.unique(self.shard_ids[slots], return_counts=True), strict=True):
            shard = self.shards[int(shard_id)]
            shard.num_live -= int(count)
            if shard.num_live == 0:
                self.num_bytes -= shard.num_bytes
                del self.shards[shard.shard_id]
                retired.append(shard.shard_id)
        return retired

    def live_rows(self, shard: Shard) -> np.ndarray:
        """bool [rows]: which rows of the shard are still held."""
        local = shard.slots - self.first_slot
        return self.live[local] & (self.keys[local] == shard.keys)

    def live_slots(self, shard: Shard) -> np.ndarray:
        """Local slots of the shard's live rows."""
        return (shard.slots - self.first_slot)[self.live_rows(shard)].astype(np.int64)
