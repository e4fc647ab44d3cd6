"""A binary sum tree in one numpy array, updated and searched one level at a time for many items at once."""

from __future__ import annotations

import numpy as np


class SumTree:
    """Non-negative float64 values under ``capacity`` indices, with their sum and draws in proportion to them.

    Parents are always recomputed from their two children, never adjusted by a difference, so rounding errors do not accumulate
    over many updates: the tree after any history equals the tree built at once from the same values.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._num_levels = max(1, (capacity - 1).bit_length())
        self._first_leaf = 1 << self._num_levels
        self._nodes = np.zeros(2 * self._first_leaf, dtype=np.float64)

    @property
    def total(self) -> float:
        return float(self._nodes[1])

    def get(self, indices: np.ndarray) -> np.ndarray:
        """Values float64 [n] of ``indices`` [n]."""
        return self._nodes[indices + self._first_leaf]

    def set(self, indices: np.ndarray, values: np.ndarray) -> None:
        """Stores ``values`` [n] under ``indices`` [n]; of a repeated index the last value stays."""
        nodes = indices + self._first_leaf
        self._nodes[nodes] = values
        for _ in range(self._num_levels):
            nodes = nodes >> 1
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def draw(self, uniforms: np.ndarray) -> np.ndarray:
        """Indices int64 [n], each with probability value / total, for ``uniforms`` [n] in [0, 1).

        Raises:
            ValueError: all values are zero.
        """
        if not self.total > 0:
            raise ValueError("cannot draw from a sum tree without positive values")
        targets = uniforms * self.total
        nodes = np.ones(len(uniforms), dtype=np.int64)
        for _ in range(self._num_levels):
            nodes = 2 * nodes
            left = self._nodes[nodes]
            # Rounding may leave a target at the left sum itself: an empty right half must not be entered.
            right = (targets >= left) & (self._nodes[nodes + 1] > 0)
            targets -= left * right
            nodes += right
        return nodes - self._first_leaf
