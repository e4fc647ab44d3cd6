"""A student's copy of the buffer's pixels on its own device, so that a training step transfers indices, not images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class DeviceMirror:
    """uint8 images [total_slots,C,H,W] by slot, and the key of the item in each slot (-1: none yet)."""

    def __init__(self, total_slots: int, image_shape: tuple[int, int, int], device: torch.device) -> None:
        self.device = device
        self._images = torch.zeros((total_slots, *image_shape), dtype=torch.uint8, device=device)
        self._keys = np.full(total_slots, -1, dtype=np.int64)

    def apply(self, slots: np.ndarray, keys: np.ndarray, images: np.ndarray) -> None:
        """Copies a shard's rows: ``images`` uint8 [rows,C,H,W] to ``slots`` [rows]; rows with slot -1 are skipped."""
        live = slots >= 0
        if not live.any():
            return
        target = torch.from_numpy(slots[live].astype(np.int64)).to(self.device)
        self._images[target] = torch.from_numpy(images[live]).to(self.device)
        self._keys[slots[live]] = keys[live]

    def gather(self, slots: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Images uint8 [n,C,H,W] on the device and keys int64 [n] of the current contents of ``slots`` [n]."""
        index = torch.from_numpy(slots.astype(np.int64)).to(self.device, non_blocking=True)
        return self._images.index_select(0, index), self._keys[slots]
