"""A student's copy of the buffer's pixels on its own device, so that a training step transfers indices, not images."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

MIRROR_SHARE = 0.5
"""Of a GPU's free memory that the mirror may take."""


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
        target = torch.from_numpy(slots[live].astype(np.int64)).to(self.device, non_blocking=True)
        self._images[target] = torch.from_numpy(images[live]).to(self.device, non_blocking=True)
        self._keys[slots[live]] = keys[live]

    def gather(self, slots: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Images uint8 [n,C,H,W] on the device and keys int64 [n] of the current contents of ``slots`` [n]."""
        index = torch.from_numpy(slots.astype(np.int64)).to(self.device, non_blocking=True)
        return self.images_at(index), self.keys_of(slots)

    def images_at(self, index: Tensor) -> Tensor:
        """Images uint8 [n,C,H,W] in slots int64 [n], which are on the device."""
        return self._images.index_select(0, index)

    def keys_of(self, slots: np.ndarray) -> np.ndarray:
        """Keys int64 of the current contents of ``slots``, in their shape."""
        return self._keys[slots]


def mirror_bytes(total_slots: int, image_shape: tuple[int, int, int]) -> int:
    """Bytes of a mirror's images."""
    return total_slots * math.prod(image_shape)


def mirror_refusal(total_slots: int, image_shape: tuple[int, int, int], free_bytes: int) -> str | None:
    """Why a mirror should not be made on a device with so much free memory, a sentence; None: it fits.

    Half of the memory is left to the networks and their activations.
    """
    needed = mirror_bytes(total_slots, image_shape)
    if needed <= free_bytes * MIRROR_SHARE:
        return None
    return (
        f"a mirror of the buffer takes {needed / 2**30:.1f} GiB and the student's GPU has {free_bytes / 2**30:.1f} GiB free: "
        "it is sent each batch's images instead"
    )


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU, None of a CPU, whose mirror the object store's own limits bound."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
