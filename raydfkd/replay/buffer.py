"""The replay buffer: an index of items over opaque shards of pixels. Never blocks; the caller locks and limits.

Vocabulary: an *item* is one image; a *shard* is one inserted batch, whose payload (arrays, or a reference to them) is kept
whole while any of its rows is live; a *slot* is an item's place in every mirror of the buffer, reused after eviction; a *key*
is its identity, never used again, ``key % total_slots`` being the slot; a *consumer* is a student with its own priorities.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from raydfkd.errors import DataError
from raydfkd.replay.buffer_table import Table
from raydfkd.replay.config import ReplayConfig
from raydfkd.replay.importance import divide_by_largest, importance_exponent, importance_weights
from raydfkd.replay.selectors import Prioritized
from raydfkd.replay.state import State, part, prefixed
from raydfkd.replay.statistics import table_arrays, table_statistics
from raydfkd.replay.storage import Storage
from raydfkd.types import PINNED_SOURCES, BufferSummary, Sample, SyntheticBatch, WeightsVersion

FORMAT_VERSION = 2
"""Of :meth:`ReplayBuffer.state_dict`."""

_COUNTERS = ("num_shards", "num_batches", "num_inserts", "num_samples", "num_dropped_updates", "num_invalid_updates")


@dataclass(frozen=True)
class ShardView:
    """A live shard as a mirror needs it: ``slots`` int32 [rows] (-1: evicted), ``keys`` int64 [rows], and the payload."""

    shard_id: int
    payload: Any
    slots: np.ndarray
    keys: np.ndarray


@dataclass(frozen=True)
class DrawTable:
    """By slot: ``values`` float64 [capacity], in proportion to which items are drawn, 0 in an empty slot; ``ages`` int32
    [capacity], batches inserted since the item was."""

    values: np.ndarray
    ages: np.ndarray


class ReplayBuffer:
    """Prioritized replay over a ``synthetic`` table that evicts and an optional ``pinned`` one that never does.

    Args:
        config: the tables.
        num_classes: K, of ``teacher_class``.
        total_steps: student steps of the whole run, over which beta is annealed.
        consumers: names of the students that draw.
        rng: every consumer gets a stream of its own from it, so its draws do not depend on when the others drew.
    """

    def __init__(
        self, config: ReplayConfig, num_classes: int, total_steps: int, consumers: tuple[str, ...], rng: np.random.Generator
    ) -> None:
        if not consumers or len(set(consumers)) != len(consumers):
            raise ValueError(f"consumers must be distinct and at least one, got {consumers}")
        self.config = config
        self.num_classes = num_classes
        self.total_steps = total_steps
        self.consumers = consumers
        self.total_slots = config.synthetic.capacity + (0 if config.pinned is None else config.pinned.capacity)
        self.identity = uuid.uuid4().hex
        """Identifies this object: shard ids of two buffers, or of one before and after a restore, must not be confused."""
        self.num_shards = 0
        self.num_batches = 0
        self.num_inserts = 0
        self.num_samples = 0
        self.num_dropped_updates = 0
        self.num_invalid_updates = 0
        self._rngs = rng.spawn(len(consumers))
        self._carries = np.zeros(len(consumers))
        self.tables = {"synthetic": self._build_table("synthetic", 0)}
        if config.pinned is not None:
            self.tables["pinned"] = self._build_table("pinned", config.synthetic.capacity)

    @property
    def size(self) -> int:
        """Items in all tables."""
        return sum(table.storage.size for table in self.tables.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of the live shards of all tables."""
        return sum(table.storage.num_bytes for table in self.tables.values())

    def insert(self, batch: SyntheticBatch, payload: Any, judge: str | None = None) -> None:
        """Inserts a batch as shard ``num_shards``; the buffer keeps ``payload`` (opaque) until the last row is evicted.

        ``num_batches`` and ``num_inserts`` count generated batches only, ``num_shards`` pinned batches too.

        Args:
            judge: the consumer that the batch's priorities belong to, the others starting with their own largest; None: they
                belong to all.

        Raises:
            ReplayFullError: the batch is larger than its table, or the pinned table is full.
            ValueError: a teacher class outside 0 .. K-1, a class histogram that does not match its table (see
                ``Storage.check_classes``), or a pinned source without a pinned table.
        """
        name = "pinned" if batch.source in PINNED_SOURCES else "synthetic"
        if name not in self.tables:
            raise ValueError(f"source {batch.source!r} fills the pinned table, but replay.pinned is not configured")
        judging = None if judge is None else self._index_of(judge)
        self.tables[name].insert(self.num_shards, batch, payload, judging)
        self.num_shards += 1
        if name == "synthetic":
            self.num_batches += 1
            self.num_inserts += len(batch)

    def sample(self, consumer: str, num_batches: int, batch_size: int, student_step: int) -> Sample:
        """Draws S = ``num_batches`` batches of B = ``batch_size`` items, with replacement.

        Importance weights are (N P)^-beta (SSD-KD Eq. 5) with N and P of the table that the item was drawn from; with
        ``normalize_importance: batch`` they are divided by their largest among that table's items in the batch. Samplers
        other than ``prioritized`` give weight 1. Beta goes linearly from ``importance_exponent`` at step 0 to
        ``importance_exponent_final`` at the last of ``total_steps``.
        Pinned items are at random positions in a batch, so that every part of a split batch gets its share.

        Raises:
            ValueError: the buffer is empty, or there is no such consumer.
        """
        if self.size == 0:
            raise ValueError("an empty buffer cannot be sampled: insert first")
        who = self._index_of(consumer)
        self.num_samples += num_batches * batch_size
        shape = (num_batches, batch_size)
        num_pinned = self._split(who, num_batches, batch_size)
        if not num_pinned.any():
            return self._draw("synthetic", who, np.ones(shape, dtype=bool), student_step)
        if (num_pinned == batch_size).all():
            return self._draw("pinned", who, np.ones(shape, dtype=bool), student_step)
        ranks = np.argsort(self._rngs[who].random(shape), axis=1)
        pinned = ranks < num_pinned[:, None]
        return _merge(
            pinned, self._draw("pinned", who, pinned, student_step), self._draw("synthetic", who, ~pinned, student_step)
        )

    def sample_one_by_one(self, consumer: str, num_batches: int, batch_size: int, student_step: int) -> Sample:
        """As :func:`sample`, drawn as if each batch were asked for by itself, at its own step."""
        return Sample.concat([self.sample(consumer, 1, batch_size, student_step + i) for i in range(num_batches)])

    def leave_draws(self, consumer: str, num_draws: int) -> DrawTable:
        """What a consumer needs to make so many draws itself, which count as made.

        Raises:
            ValueError: the synthetic table is empty, or there are pinned items, or other draws than prioritized ones.
        """
        table = self.tables["synthetic"]
        sampler = table.samplers[self._index_of(consumer)]
        if not isinstance(sampler, Prioritized) or len(self.tables) > 1 or table.storage.size == 0:
            raise ValueError(
                "only prioritized draws from a synthetic table alone, which is not empty, can be left to a consumer"
            )
        self.num_samples += num_draws
        ages = (self.num_shards - 1 - table.storage.shard_ids).astype(np.int32)
        return DrawTable(sampler.values(), ages)

    def update(self, consumer: str, keys: np.ndarray, priorities: np.ndarray) -> int:
        """Stores new raw priorities (float [n]) of ``keys`` int64 [n]; of a repeated key the last finite one stays.

        Returns how many were dropped because their item was evicted. Non-finite ones are dropped and counted
        separately (``invalid_updates`` in :meth:`stats`).
        """
        who = self._index_of(consumer)
        keys = keys.ravel()
        priorities = priorities.ravel()
        finite = np.isfinite(priorities)
        if not finite.all():
            self.num_invalid_updates += int(len(finite) - finite.sum())
            keys, priorities = keys[finite], priorities[finite]
        slots = keys % self.total_slots
        num_stored = 0
        for table in self.tables.values():
            storage = table.storage
            local = slots - storage.first_slot
            inside = (local >= 0) & (local < storage.capacity)
            local, own_keys, own = local[inside], keys[inside], priorities[inside]
            held = storage.live[local] & (storage.keys[local] == own_keys)
            if held.any():
                table.update(who, local[held], own[held])
                num_stored += int(held.sum())
        num_dropped = len(keys) - num_stored
        self.num_dropped_updates += num_dropped
        return num_dropped

    def shards_after(self, cursor: int) -> list[ShardView]:
        """The live shards with an id above ``cursor``, in order: what a mirror that is up to date to it still needs."""
        found = []
        for table in self.tables.values():
            for shard in table.storage.shards.values():
                if shard.shard_id > cursor:
                    slots = np.where(table.storage.live_rows(shard), shard.slots, np.int32(-1))
                    found.append(ShardView(shard.shard_id, shard.payload, slots, shard.keys))
        return sorted(found, key=lambda view: view.shard_id)

    def locate(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard ids int64 and rows int32 of live ``slots``, in their shape: for delivery without a mirror."""
        shard_ids = np.empty(slots.shape, dtype=np.int64)
        rows = np.empty(slots.shape, dtype=np.int32)
        for table in self.tables.values():
            storage = table.storage
            inside = (slots >= storage.first_slot) & (slots < storage.first_slot + storage.capacity)
            local = slots[inside] - storage.first_slot
            shard_ids[inside] = storage.shard_ids[local]
            rows[inside] = storage.rows[local]
        return shard_ids, rows

    def payload(self, shard_id: int) -> Any:
        """The payload of a live shard.

        Raises:
            KeyError: it is not live.
        """
        for table in self.tables.values():
            if shard_id in table.storage.shards:
                return table.storage.shards[shard_id].payload
        raise KeyError(shard_id)

    def forget_shard(self, shard_id: int) -> int:
        """Evicts all rows of a shard whose payload was lost; returns how many (0: it was not live)."""
        for table in self.tables.values():
            if shard_id in table.storage.shards:
                return table.remove_shard(shard_id)
        return 0

    def summary(self) -> BufferSummary:
        storage = self.tables["synthetic"].storage
        return BufferSummary(storage.size, storage.class_counts.copy(), self.num_batches)

    def stats(self, newest_version: Callable[[str], WeightsVersion] | None = None) -> dict[str, Any]:
        """The values of a ``replay`` metrics record (see ``run_dir``); ``newest_version`` as in ``table_statistics``."""
        return {
            **table_statistics(self.tables, self.num_shards, newest_version),
            "pinned_fraction": self.pinned_fraction,
            "inserts": self.num_inserts,
            "samples": self.num_samples,
            "dropped_updates": self.num_dropped_updates,
            "invalid_updates": self.num_invalid_updates + sum(t.num_invalid_priorities for t in self.tables.values()),
        }

    def analysis(self, consumer: str | None = None) -> dict[str, np.ndarray]:
        """The arrays of ``analysis/buffer.npz``; priorities are the first consumer's unless another is named."""
        return table_arrays(self.tables, self.num_shards, 0 if consumer is None else self._index_of(consumer))

    def state_dict(self) -> State:
        """The whole index as a flat dict of plain numpy arrays (copies), without payloads."""
        header = {
            "format": FORMAT_VERSION,
            "shape": self._shape(),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "rngs": [rng.bit_generator.state for rng in self._rngs],
        }
        state = {"header": np.array(json.dumps(header)), "carries": self._carries.copy()}
        for name, table in self.tables.items():
            state.update(prefixed(name, table.state_dict()))
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray], payloads: Mapping[int, Any]) -> None:
        """Restores the buffer from ``state``; ``payloads`` maps each live shard to its pixels.

        Shards without a payload are dropped, as by :meth:`forget_shard`.

        Raises:
            DataError: the state is from a buffer with different tables, classes or consumers, or is damaged.
        """
        try:
            header = json.loads(str(state["header"]))
            if header["format"] != FORMAT_VERSION or header["shape"] != self._shape():
                raise DataError(
                    f"a replay state of {header['shape']} (format {header['format']}) does not fit a buffer of "
                    f"{self._shape()}: use the experiment that it was saved with"
                )
            for name, table in self.tables.items():
                table.load_state_dict(part(name, state), payloads)
            for counter in _COUNTERS:
                setattr(self, counter, int(header["counters"][counter]))
            for rng, rng_state in zip(self._rngs, header["rngs"], strict=True):
                rng.bit_generator.state = rng_state
            self._carries = state["carries"].astype(np.float64)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise DataError(f"a replay state is damaged ({error}): use an older snapshot or start without it") from error
        self.identity = uuid.uuid4().hex
        for table in self.tables.values():
            for shard_id in [s for s in table.storage.shards if s not in payloads]:
                table.remove_shard(shard_id)

    def _shape(self) -> dict[str, Any]:
        """What must match between a saved buffer and the one restored from it (as read back from JSON)."""
        return {
            "tables": {n: [t.config.capacity, t.config.sampler.kind, t.config.remover.kind] for n, t in self.tables.items()},
            "num_classes": self.num_classes,
            "consumers": list(self.consumers),
        }

    def _index_of(self, consumer: str) -> int:
        if consumer not in self.consumers:
            raise ValueError(f"no consumer {consumer!r}: the buffer knows {', '.join(self.consumers)}")
        return self.consumers.index(consumer)

    def _build_table(self, name: str, first_slot: int) -> Table:
        config = getattr(self.config, name)
        storage = Storage(config.capacity, first_slot, self.total_slots, self.num_classes)
        return Table(name, config, storage, len(self.consumers), evicts=name == "synthetic")

    def _split(self, who: int, num_batches: int, batch_size: int) -> np.ndarray:
        """Pinned items int64 [S] of each batch: the fraction on average, rounded down with the remainder carried over."""
        if (fraction := self.pinned_fraction) in (0, 1):
            return np.full(num_batches, fraction * batch_size, dtype=np.int64)
        # The small addend keeps 0.1 * 10 from falling short of a whole item by a rounding error.
        wanted = self._carries[who] + fraction * batch_size * np.arange(1, num_batches + 1)
        whole = np.floor(wanted + 1e-9).astype(np.int64)
        self._carries[who] = max(0.0, wanted[-1] - whole[-1])
        return np.diff(whole, prepend=0)

    @property
    def pinned_fraction(self) -> float:
        """Share of pinned items in a batch drawn now, in [0,1]; an empty table's share is the other's.

        As configured, or N |pinned| / (N |pinned| + |synthetic|) with the inflation N (see ``ReplayConfig``).
        """
        pinned, synthetic = (self.tables[n].storage.size if n in self.tables else 0 for n in ("pinned", "synthetic"))
        if pinned == 0 or synthetic == 0:
            return float(pinned > 0)
        if self.config.pinned_fraction is not None:
            return self.config.pinned_fraction
        inflated = self.config.inflation_of(pinned) * pinned
        return inflated / (inflated + synthetic)

    def _draw(self, name: str, who: int, places: np.ndarray, student_step: int) -> Sample:
        """Draws one item from a table for every true position of bool [S,B]; the rest of the arrays is zero."""
        table = self.tables[name]
        storage, sampler = table.storage, table.config.sampler
        local, probabilities = table.sample(who, int(places.sum()), self._rngs[who])
        if sampler.kind == "prioritized":
            exponent = importance_exponent(sampler, student_step, self.total_steps)
            weights = _spread(importance_weights(probabilities, storage.size, exponent), places)
            if sampler.normalize_importance == "batch":
                weights = divide_by_largest(weights)
        else:
            weights = places.astype(np.float64)
        return Sample(
            keys=_spread(storage.keys[local], places),
            slots=_spread((local + storage.first_slot).astype(np.int32), places),
            importance_weights=weights.astype(np.float32),
            ages=_spread((self.num_shards - 1 - storage.shard_ids[local]).astype(np.int32), places),
        )


def _spread(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """``values`` [places.sum()] in row order at the true positions of bool [S,B], zero elsewhere."""
    if len(values) == places.size:
        return values.reshape(places.shape)
    spread = np.zeros(places.shape, dtype=values.dtype)
    spread[places] = values
    return spread


def _merge(places: np.ndarray, inside: Sample, outside: Sample) -> Sample:
    return Sample(**{f.name: np.where(places, getattr(inside, f.name), getattr(outside, f.name)) for f in fields(Sample)})
