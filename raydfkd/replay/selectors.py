"""Who chooses items of a table: samplers (with replacement, to train on) and removers (distinct items, to evict).

A sampler and a remover are the same kind of thing, so any rule can be tested and saved the same way. Slots are those of
one table, 0 .. capacity-1. Selectors keep membership and what they choose by; everything else about an item is the table's.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from raydfkd.replay.config import SelectorConfig
from raydfkd.replay.sum_tree import SumTree

State = dict[str, np.ndarray]


class Selector(Protocol):
    """Chooses among the slots it was told of.

    ``priorities`` are raw (float [n], before any exponent), ``classes`` int [n].
    """

    def insert(self, slots: np.ndarray, priorities: np.ndarray, classes: np.ndarray) -> None: ...

    def update(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        """Takes new raw priorities; of a repeated slot the last one stays."""
        ...

    def remove(self, slots: np.ndarray) -> None: ...

    def select(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Slots int64 [n] and the probability float64 [n] with which each was chosen.

        Samplers draw with replacement. Removers give n distinct slots, the first to go first, with probability 1.
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

    def select(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._tree.draw(rng.random(n))
        return chosen, self._tree.get(chosen) / self._tree.total

    def state_dict(self) -> State:
        return {"values": self._tree.get(np.arange(self._tree.capacity))}

    def load_state_dict(self, state: State) -> None:
        self._tree.set(np.arange(self._tree.capacity), state["values"])


class ClassBalanced:
    """A class uniformly among those present, then an item uniformly in it: P(i) = 1 / (classes present * n_class(i))."""

    def __init__(self, capacity: int) -> None:
        self._classes = np.full(capacity, -1, dtype=np.int32)
        self._groups: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def insert(self, slots: np.ndarray, priorities: np.ndarray, classes: np.ndarray) -> None:
        self._classes[slots] = classes
        self._groups = None

    def update(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        pass

    def remove(self, slots: np.ndarray) -> None:
        self._classes[slots] = -1
        self._groups = None

    def select(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if self._groups is None:
            members = np.flatnonzero(self._classes >= 0)
            members = members[np.argsort(self._classes[members], kind="stable")]
            self._groups = (members, *np.unique(self._classes[members], return_index=True, return_counts=True)[1:])
        members, starts, counts = self._groups
        groups = rng.integers(len(starts), size=n)
        chosen = members[starts[groups] + rng.integers(counts[groups])]
        return chosen, 1.0 / (len(starts) * counts[groups])

    def state_dict(self) -> State:
        return {"classes": self._classes.copy()}

    def load_state_dict(self, state: State) -> None:
        self._classes = state["classes"].astype(np.int32)
        self._groups = None


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


def build_selector(config: SelectorConfig, capacity: int) -> Selector:
    """The selector that ``config`` names, for slots 0 .. capacity-1."""
    if config.kind == "prioritized":
        return Prioritized(capacity, config.priority_exponent, config.priority_epsilon)
    simple: dict[str, type[Uniform] | type[ClassBalanced] | type[Fifo] | type[LowestPriority]] = {
        "uniform": Uniform,
        "class_balanced": ClassBalanced,
        "fifo": Fifo,
        "lowest_priority": LowestPriority,
    }
    return simple[config.kind](capacity)
