"""One table of the buffer: storage, remover, and a sampler for each consumer with that consumer's priorities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from raydfkd.errors import ReplayFullError
from raydfkd.replay.config import TableConfig
from raydfkd.replay.selectors import Selector, build_selector
from raydfkd.replay.state import State, fill, part, prefixed
from raydfkd.replay.storage import Storage
from raydfkd.types import SyntheticBatch


class Table:
    """A storage, a sampler for each consumer, and a remover. Slots here are local to the table.

    With several consumers each draws by its own priorities. The single remover uses the largest of them, since an item that
    one student still needs should stay.
    """

    def __init__(self, name: str, config: TableConfig, storage: Storage, num_consumers: int, evicts: bool) -> None:
        self.name = name
        self.config = config
        self.storage = storage
        self._evicts = evicts
        self.priorities = np.zeros((num_consumers, config.capacity), dtype=np.float32)
        self.samplers = [build_selector(config.sampler, config.capacity, config.max_draws) for _ in range(num_consumers)]
        self.remover = build_selector(config.remover, config.capacity)
        self.num_invalid_priorities = 0

    def insert(self, shard_id: int, batch: SyntheticBatch, payload: Any, judge: int | None = None) -> None:
        """Makes room and inserts.

        Args:
            judge: the consumer that the batch's priorities belong to; None: they belong to all.

        Raises:
            ReplayFullError: the batch cannot fit.
            ValueError: see ``Storage.check_classes``.
        """
        self.storage.check_classes(batch)
        self._refuse_what_cannot_fit(batch)
        self._make_room(shard_id, batch)
        priorities = self._initial_priorities(batch, judge)
        slots = self.storage.insert(shard_id, batch, payload)
        self.priorities[:, slots] = priorities
        for sampler, own in zip(self.samplers, priorities, strict=True):
            sampler.insert(slots, own, batch.classes)
        self.remover.insert(slots, priorities.max(axis=0), batch.classes)

    def update(self, consumer: int, slots: np.ndarray, priorities: np.ndarray) -> None:
        """Stores one consumer's new raw priorities; of a repeated slot the last one stays."""
        self.priorities[consumer, slots] = np.abs(priorities)
        current = self.priorities[:, slots]
        self.samplers[consumer].update(slots, current[consumer])
        self.remover.update(slots, current.max(axis=0))

    def remove(self, slots: np.ndarray) -> None:
        """Evicts distinct live items."""
        for selector in (*self.samplers, self.remover):
            selector.remove(slots)
        self.storage.remove(slots)

    def remove_shard(self, shard_id: int) -> int:
        """Evicts every item of a live shard; returns how many there were."""
        slots = self.storage.live_slots(self.storage.shards[shard_id])
        self.remove(slots)
        return len(slots)

    def sample(self, consumer: int, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """n local slots int64 and their probabilities float64 within this table, drawn with replacement."""
        return self.samplers[consumer].select(n, rng)

    def state_dict(self) -> State:
        """Everything but the payloads, as copies."""
        state = {
            **self.storage.state_dict(),
            "priorities": self.priorities.copy(),
            "num_invalid_priorities": np.array(self.num_invalid_priorities),
        }
        for prefix, selector in self._selectors():
            state.update(prefixed(prefix, selector.state_dict()))
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray], payloads: Mapping[int, Any]) -> None:
        """Restores the table from ``state``; ``payloads`` and errors as in ``Storage.load_state_dict``."""
        self.storage.load_state_dict(state, payloads)
        fill(self.priorities, state["priorities"])
        self.num_invalid_priorities = int(state["num_invalid_priorities"])
        for prefix, selector in self._selectors():
            selector.load_state_dict(part(prefix, state))

    def _selectors(self) -> Iterator[tuple[str, Selector]]:
        """Every selector with its name in a state: the consumers' samplers, then the remover."""
        return ((f"selector{number}", selector) for number, selector in enumerate((*self.samplers, self.remover)))

    def _refuse_what_cannot_fit(self, batch: SyntheticBatch) -> None:
        config, storage = self.config, self.storage
        taken = (0, 0) if self._evicts else (storage.size, storage.num_bytes)
        if taken[0] + len(batch) > config.capacity:
            raise ReplayFullError(
                f"{len(batch)} images do not fit the {self.name} table, which holds {taken[0]} that cannot be evicted and has "
                f"capacity {config.capacity}: raise replay.{self.name}.capacity"
            )
        if config.capacity_bytes is not None and taken[1] + batch.num_bytes > config.capacity_bytes:
            raise ReplayFullError(
                f"a batch of {batch.num_bytes} bytes does not fit the {self.name} table, which holds {taken[1]} bytes that "
                f"stay and has capacity_bytes {config.capacity_bytes}: raise replay.{self.name}.capacity_bytes"
            )

    def _make_room(self, shard_id: int, batch: SyntheticBatch) -> None:
        storage, config = self.storage, self.config
        if config.max_item_age_batches is not None:
            for old in [s for s in storage.shards if shard_id - s > config.max_item_age_batches]:
                self.remove_shard(old)
        surplus = len(batch) - storage.num_free
        if surplus > 0:
            chosen, _ = self.remover.select(surplus, _NO_RNG)
            self.remove(chosen)
        while config.capacity_bytes is not None and storage.num_bytes + batch.num_bytes > config.capacity_bytes:
            self.remove_shard(next(iter(storage.shards)))

    def _initial_priorities(self, batch: SyntheticBatch, judge: int | None) -> np.ndarray:
        """float32 [consumers, N]: the batch's own, or each consumer's largest in the table (1 in an empty one).

        Students' losses differ in scale, so every consumer but the judge starts with its own largest.
        """
        if self.storage.size:
            largest = self.priorities[:, self.storage.live].max(axis=1)
        else:
            largest = np.ones(len(self.priorities), dtype=np.float32)
        fallback = np.repeat(largest[:, None], len(batch), axis=1)
        if batch.priorities is None:
            return fallback
        finite = np.isfinite(batch.priorities)
        self.num_invalid_priorities += int(len(finite) - finite.sum())
        judged = np.where(finite, np.abs(batch.priorities).astype(np.float32), fallback)
        if judge is None:
            return judged
        fallback[judge] = judged[judge]
        return fallback


_NO_RNG = np.random.default_rng(0)
"""Removers are deterministic, but the protocol requires a generator."""
