"""Selection of items from a table: samplers (with replacement, for training) and removers (distinct items, to evict).

Samplers and removers share one protocol, so all rules are tested and saved the same way. Slots are those of one table,
0 .. capacity-1. Selectors store membership and their selection criterion; the table stores everything else about an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from raydfkd.replay.config import SelectorConfig
from raydfkd.replay.state import State
from raydfkd.replay.sum_tree import SumTree


class Selector(Protocol):
    """Chooses among the slots that were inserted.

    ``priorities`` are raw (float [n], before any exponent). ``classes`` is int [n], or int [n,K], the positions of each class
    in each item; the same form in all calls, until the table is empty.
    """

    def insert(self, slots: np.ndarray, priorities: np.ndarray, classes: np.ndarray) -> None: ...

    def update(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        """Takes new raw priorities; of a repeated slot the last one stays."""
        ...

    def remove(self, slots: np.ndarray) -> None: ...

    def select(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Slots int64 [n] and the probability float64 [n] with which each was chosen.

        Samplers draw with replacement. Removers give n distinct slots, in eviction order, with probability 1.
        """
        ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class Uniform:
    """Every item with probability 1 / N, with replacement."""

    def __init__(self, capacity: int) -> None:
        self._present = np.zeros(capacity, dtype=bool)
        self._members: np.ndarray | None = None

    def insert(self, slots: np.ndarray, priorities: np.ndarray, classes: np.ndarray) -> None:
        self._present[slots] = True
        self._members = None

    def update(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        pass

    def remove(self, slots: np.ndarray) -> None:
        self._present[slots] = False
        self._members = None

    def select(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if self._members is None:
            self._members = np.flatnonzero(self._present)
        chosen = self._members[rng.integers(len(self._members), size=n)]
        return chosen, np.full(n, 1.0 / len(self._members))

    def state_dict(self) -> State:
        return {"present": self._present.copy()}

    def load_state_dict(self, state: State) -> None:
        self._present = state["present"].astype(bool)
        self._members = None


class Limited:
    """Every item ``max_draws`` times, in random order: all that were drawn least come before any that was drawn more often.

    A student that restarts from a checkpoint draws again what it had drawn after it. What such a student lacks is drawn
    uniformly from all items.
    """

    def __init__(self, capacity: int, max_draws: int) -> None:
        self._max_draws = max_draws
        self._draws_left = np.zeros(capacity, dtype=np.int32)
        self._present = np.zeros(capacity, dtype=bool)

    def insert(self, slots: np.ndarray, priorities: np.ndarray, classes: np.ndarray) -> None:
        self._present[slots] = True
        self._draws_left[slots] = self._max_draws

    def update(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        pass

    def remove(self, slots: np.ndarray) -> None:
        self._present[slots] = False
        self._draws_left[slots] = 0

    def select(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        members = np.flatnonzero(self._draws_left)
        left = self._draws_left[members]
        lots = np.repeat(members, left)
        # The first lot of an item has the number of the item's draws so far, each further one the next number.
        numbers = self._max_draws - np.repeat(left, left) + np.arange(len(lots)) - np.repeat(np.cumsum(left) - left, left)
        chosen = lots[np.lexsort((rng.random(len(lots)), numbers))[:n]]
        np.subtract.at(self._draws_left, chosen, 1)
        if len(chosen) < n:
            everything = np.flatnonzero(self._present)
            chosen = np.concatenate([chosen, everything[rng.integers(len(everything), size=n - len(chosen))]])
        return chosen, np.full(n, 1.0 / self._present.sum())

    def state_dict(self) -> State:
        return {"present": self._present.copy(), "draws_left": self._draws_left.copy()}

    def load_state_dict(self, state: State) -> None:
        self._present = state["present"].astype(bool)
        self._draws_left = state["draws_left"].astype(np.int32)


class Prioritized:
    """P(i) = (|d_i| + epsilon)^alpha / sum_k (|d_k| + epsilon)^alpha, with replacement (SSD-KD Eq. 6; Schaul et al. 2016).

    Draws are independent, not stratified over equal slices of the sum as in Schaul et al.: one call draws several training
    batches at once, and slices laid over all of them would make a batch depend on how many were prefetched with it.
    """

    def __init__(self, capacity: int, exponent: float, epsilon: float) -> None:
        self._tree = SumTree(capacity)
        self._exponent = exponent
        self._epsilon = epsilon

    def insert(self, slots: np.ndarray, priorities: np.ndarray, classes: np.ndarray) -> None:
        self.update(slots, priorities)

    def update(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        self._tree.set(slots, (np.abs(priorities.astype(np.float64)) + self._epsilon) ** self._exponent)

    def remove(self, slots: np.ndarray) -> None:
        self._tree.set(slots, np.zeros(len(slots)))

    def values(self) -> np.ndarray:
        """(|d| + epsilon)^alpha float64 [capacity], 0 in an empty slot."""
        return self._tree.get(np.arange(self._tree.capacity))

    def select(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._tree.draw(rng.random(n))
        return chosen, self._tree.get(chosen) / self._tree.total

    def state_dict(self) -> State:
        return {"values": self.values()}

    def load_state_dict(self, state: State) -> None:
        self._tree.set(np.arange(self._tree.capacity), state["values"])


class ClassBalanced:
    """A class uniformly among those present, then an item in proportion to how much of the class it holds.

    With h_ic positions of class c in item i and C classes present, P(i) = (1/C) sum_c h_ic / sum_j h_jc. Where every item is
    one position this is 1 / (C n_c), n_c being the items of its class c.
    """

    def __init__(self, capacity: int) -> None:
        self._classes = np.full(capacity, -1, dtype=np.int32)
        self._entries: _ClassEntries | None = None

    def insert(self, slots: np.ndarray, priorities: np.ndarray, classes: np.ndarray) -> None:
        if classes.shape[1:] != self._classes.shape[1:]:
            self._classes = np.full((len(self._classes), *classes.shape[1:]), -1, dtype=np.int32)
        self._classes[slots] = classes
        self._entries = None

    def update(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        pass

    def remove(self, slots: np.ndarray) -> None:
        self._classes[slots] = -1
        self._entries = None

    def select(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if self._entries is None:
            self._entries = _class_entries(self._classes)
        entries = self._entries
        chosen_class = rng.integers(len(entries.totals), size=n)
        position = entries.begins[chosen_class] + rng.integers(entries.totals[chosen_class])
        entry = position if entries.ends is None else np.searchsorted(entries.ends, position, side="right")
        chosen = entries.slots[entry]
        return chosen, entries.probabilities[chosen]

    def state_dict(self) -> State:
        return {"classes": self._classes.copy()}

    def load_state_dict(self, state: State) -> None:
        self._classes = state["classes"].astype(np.int32)
        self._entries = None


@dataclass(frozen=True)
class _ClassEntries:
    """The positions of all items, numbered class by class; those of one class in one item, an entry, have running numbers.

    Attributes:
        slots: int64 [E], the item of each entry.
        ends: int64 [E], the number after its last position; None where every entry is one position.
        begins, totals: int64 [C], of each class present: its first position, and how many it has.
        probabilities: float64 [capacity], P(i).
    """

    slots: np.ndarray
    ends: np.ndarray | None
    begins: np.ndarray
    totals: np.ndarray
    probabilities: np.ndarray


def _class_entries(held: np.ndarray) -> _ClassEntries:
    """Of int32 [capacity], each slot's class, or [capacity,K], its positions of each class; -1 in an empty slot."""
    if held.ndim == 1:
        slots = np.flatnonzero(held >= 0)
        classes = held[slots]
        # Stable sorting is faster with small integer types.
        order = np.argsort(classes.astype(np.min_scalar_type(classes.max())), kind="stable")
        slots, classes, counts = slots[order], classes[order], np.ones(len(slots), dtype=np.int64)
    else:
        classes, slots = np.nonzero(held.T > 0)
        counts = held[slots, classes].astype(np.int64)
    firsts = np.flatnonzero(np.diff(classes, prepend=-1))
    totals = np.add.reduceat(counts, firsts)
    ends = np.cumsum(counts)
    num_entries = np.diff(firsts, append=len(slots))
    shares = counts / np.repeat(totals, num_entries)
    probabilities = np.bincount(slots, weights=shares, minlength=len(held)) / len(totals)
    begins = ends[firsts] - counts[firsts]
    return _ClassEntries(slots, None if held.ndim == 1 else ends, begins, totals, probabilities)


class Fifo:
    """The oldest items first; of one insert call, in the order given."""

    def __init__(self, capacity: int) -> None:
        self._order = np.full(capacity, _ABSENT, dtype=np.int64)
        self._next = 0

    def insert(self, slots: np.ndarray, priorities: np.ndarray, classes: np.ndarray) -> None:
        self._order[slots] = self._next + np.arange(len(slots))
        self._next += len(slots)

    def update(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        pass

    def remove(self, slots: np.ndarray) -> None:
        self._order[slots] = _ABSENT

    def select(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if n < len(self._order):
            chosen = np.argpartition(self._order, n)[:n]
        else:
            chosen = np.arange(len(self._order))
        return chosen[np.argsort(self.order_of(chosen))], np.ones(n)

    def order_of(self, slots: np.ndarray) -> np.ndarray:
        """int64 [n], smaller for older items."""
        return self._order[slots]

    def state_dict(self) -> State:
        return {"order": self._order.copy(), "next": np.array(self._next)}

    def load_state_dict(self, state: State) -> None:
        self._order = state["order"].astype(np.int64)
        self._next = int(state["next"])


class LowestPriority:
    """The items of smallest |priority| first; among equals the oldest."""

    def __init__(self, capacity: int) -> None:
        self._priorities = np.full(capacity, np.inf)
        self._age = Fifo(capacity)

    def insert(self, slots: np.ndarray, priorities: np.ndarray, classes: np.ndarray) -> None:
        self._age.insert(slots, priorities, classes)
        self.update(slots, priorities)

    def update(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        self._priorities[slots] = np.abs(priorities)

    def remove(self, slots: np.ndarray) -> None:
        self._priorities[slots] = np.inf
        self._age.remove(slots)

    def select(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        highest = np.partition(self._priorities, n - 1)[n - 1]
        candidates = np.flatnonzero(self._priorities <= highest)
        ranks = np.lexsort((self._age.order_of(candidates), self._priorities[candidates]))
        return candidates[ranks[:n]], np.ones(n)

    def state_dict(self) -> State:
        return {"priorities": self._priorities.copy(), **self._age.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self._priorities = state["priorities"].astype(np.float64)
        self._age.load_state_dict(state)


_ABSENT = np.iinfo(np.int64).max


def build_selector(config: SelectorConfig, capacity: int, max_draws: int | None = None) -> Selector:
    """The selector that ``config`` names, for slots 0 .. capacity-1; with ``max_draws``, a uniform one, see ``Limited``."""
    if max_draws is not None:
        return Limited(capacity, max_draws)
    if config.kind == "prioritized":
        return Prioritized(capacity, config.priority_exponent, config.priority_epsilon)
    simple: dict[str, type[Uniform] | type[ClassBalanced] | type[Fifo] | type[LowestPriority]] = {
        "uniform": Uniform,
        "class_balanced": ClassBalanced,
        "fifo": Fifo,
        "lowest_priority": LowestPriority,
    }
    return simple[config.kind](capacity)
