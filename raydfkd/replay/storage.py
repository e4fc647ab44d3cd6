"""The index of one table: which slots are taken, by which item, of which shard. Pixels are elsewhere (see ``buffer``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raydfkd.replay.state import State, fill
from raydfkd.types import SyntheticBatch, WeightsVersion

_ARRAYS = ("keys", "live", "classes", "confidences", "shard_ids", "rows", "class_counts")


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

    Arrays are [capacity], by local slot (global slot - first_slot). ``keys`` keeps the last item's key after eviction,
    so the next item's is ``total_slots`` more and no key is reused. ``histograms`` int32 [capacity,K] exists while the
    items have a class histogram, None while each is one position of its class. ``class_counts`` int64 [K] counts positions.
    """

    def __init__(self, capacity: int, first_slot: int, total_slots: int, num_classes: int) -> None:
        self.capacity = capacity
        self.first_slot = first_slot
        self._total_slots = total_slots
        self.keys = np.arange(first_slot, first_slot + capacity, dtype=np.int64) - total_slots
        self.live = np.zeros(capacity, dtype=bool)
        self.classes = np.zeros(capacity, dtype=np.int32)
        self.histograms: np.ndarray | None = None
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

    def check_classes(self, batch: SyntheticBatch) -> None:
        """Rejects a batch whose classes are incompatible with those stored.

        Raises:
            ValueError: a class outside 0 .. K-1; a histogram that does not count the same positive number of positions for
                every image; or one of batch and table has histograms and the other has none.
        """
        who, num_classes = f"a batch from {batch.generator_id}", len(self.class_counts)
        if len(batch) == 0 or batch.teacher_class.min() < 0 or batch.teacher_class.max() >= num_classes:
            raise ValueError(f"{who} is empty or has classes outside 0..{num_classes - 1}")
        histogram = batch.class_histogram
        if self.size and (histogram is None) != (self.histograms is None):
            with_one, without = ("it", "the table") if self.histograms is None else ("the table", "it")
            raise ValueError(f"{who} does not fit its table: {with_one} has class histograms and {without} has none")
        if histogram is None:
            return
        if histogram.shape != (len(batch), num_classes):
            raise ValueError(f"{who} has a class histogram {histogram.shape}, it must be {(len(batch), num_classes)}")
        positions = histogram.sum(axis=1, dtype=np.int64)
        if self.size and self.histograms is not None:
            positions = np.append(positions, self.histograms[np.argmax(self.live)].sum(dtype=np.int64))
        if histogram.min() < 0 or positions[0] < 1 or (positions != positions[0]).any():
            raise ValueError(
                f"{who} has class histograms of {positions.min()} to {positions.max()} positions an image (with those that the "
                "table holds): every image must have the same number, at least 1, and no count below 0"
            )

    def insert(self, shard_id: int, batch: SyntheticBatch, payload: Any) -> np.ndarray:
        """Assigns free slots to the batch's rows (there must be enough) and returns them, local, in row order."""
        count = len(batch)
        slots = np.flatnonzero(~self.live)[:count]
        self.keys[slots] += self._total_slots
        self.live[slots] = True
        self.classes[slots] = batch.teacher_class
        self.confidences[slots] = batch.teacher_confidence
        self.shard_ids[slots] = shard_id
        self.rows[slots] = np.arange(count)
        self._insert_histogram(slots, batch.class_histogram)
        self.class_counts += batch.class_counts(len(self.class_counts))
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

    def remove(self, slots: np.ndarray) -> None:
        """Frees distinct live local slots, and drops shards without live rows."""
        self.live[slots] = False
        if self.histograms is None:
            self.class_counts -= np.bincount(self.classes[slots], minlength=len(self.class_counts))
        else:
            self.class_counts -= self.histograms[slots].sum(axis=0, dtype=np.int64)
        self.size -= len(slots)
        for shard_id, count in zip(*np.unique(self.shard_ids[slots], return_counts=True), strict=True):
            shard = self.shards[int(shard_id)]
            shard.num_live -= int(count)
            if shard.num_live == 0:
                self.num_bytes -= shard.num_bytes
                del self.shards[shard.shard_id]

    def live_rows(self, shard: Shard) -> np.ndarray:
        """bool [rows]: which rows of the shard are live."""
        local = shard.slots - self.first_slot
        return self.live[local] & (self.keys[local] == shard.keys)

    def live_slots(self, shard: Shard) -> np.ndarray:
        """Local slots of the shard's live rows."""
        return (shard.slots - self.first_slot)[self.live_rows(shard)].astype(np.int64)

    def state_dict(self) -> State:
        """Everything but the payloads, as copies."""
        shards = list(self.shards.values())
        numbers = [[s.shard_id, len(s.slots), s.num_bytes, s.num_live, s.student_version] for s in shards]
        state = {name: getattr(self, name).copy() for name in _ARRAYS}
        if self.histograms is not None:
            state["histograms"] = self.histograms.copy()
        state["shard_texts"] = np.array(json.dumps([[s.source, s.generator_id] for s in shards]))
        state["shard_numbers"] = np.array(numbers, dtype=np.int64).reshape(len(shards), 5)
        state["shard_slots"] = np.concatenate([s.slots for s in shards] or [np.empty(0, np.int32)])
        state["shard_keys"] = np.concatenate([s.keys for s in shards] or [np.empty(0, np.int64)])
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray], payloads: Mapping[int, Any]) -> None:
        """Restores the storage from ``state``; ``payloads`` by shard id, None for a shard that it lacks.

        Raises:
            KeyError, ValueError, IndexError, TypeError: the state is damaged or of a different size.
        """
        for name in _ARRAYS:
            fill(getattr(self, name), state[name])
        self.histograms = None
        if "histograms" in state:
            self.histograms = np.zeros((self.capacity, len(self.class_counts)), np.int32)
            fill(self.histograms, state["histograms"])
        self.size = int(self.live.sum())
        self.shards = {}
        start = 0
        numbers, texts = state["shard_numbers"], json.loads(str(state["shard_texts"]))
        for (shard_id, rows, num_bytes, num_live, version), (source, generator_id) in zip(numbers.tolist(), texts, strict=True):
            self.shards[shard_id] = Shard(
                shard_id=shard_id,
                payload=payloads.get(shard_id),
                slots=state["shard_slots"][start : start + rows].copy(),
                keys=state["shard_keys"][start : start + rows].copy(),
                num_bytes=num_bytes,
                num_live=num_live,
                source=source,
                generator_id=generator_id,
                student_version=version,
            )
            start += rows
        self.num_bytes = sum(shard.num_bytes for shard in self.shards.values())

    def _insert_histogram(self, slots: np.ndarray, histogram: np.ndarray | None) -> None:
        if histogram is None:
            self.histograms = None
            return
        if self.histograms is None:
            self.histograms = np.zeros((self.capacity, len(self.class_counts)), np.int32)
        self.histograms[slots] = histogram
