"""A consumer's copy of the buffer's pixels, so that a training step moves indices and not pictures."""

from __future__ import annotations

import numpy as np


class Mirror:
    """uint8 images [total_slots,C,H,W] by global slot, and the key of the item in each (-1: none yet).

    Memory is taken when the first images come, and by the operating system only for slots that were written.
    """

    def __init__(self, total_slots: int, image_shape: tuple[int, int, int]) -> None:
        self.total_slots = total_slots
        self.image_shape = image_shape
        self._images: np.ndarray | None = None
        self._keys = np.full(total_slots, -1, dtype=np.int64)

    def apply(self, slots: np.ndarray, keys: np.ndarray, images: np.ndarray) -> None:
        """Copies the rows of a shard: ``images`` uint8 [rows,C,H,W] to ``slots`` [rows]; rows with slot -1 are left out."""
        if self._images is None:
            self._images = np.zeros((self.total_slots, *self.image_shape), dtype=np.uint8)
        live = slots >= 0
        self._images[slots[live]] = images if live.all() else images[live]
        self._keys[slots[live]] = keys[live]

    def gather(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [n,C,H,W] and keys int64 [n] of ``slots`` [n].

        Raises:
            ValueError: nothing was applied yet.
        """
        if self._images is None:
            raise ValueError("an empty mirror cannot be gathered from: apply a shard first")
        return self._images[slots], self._keys[slots]
