"""Batch augmentation on device tensors: one draw per sample, from an explicit random generator.

The settings import no torch, so that the configuration tree can use them; the implementation is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from raydfkd.augment.config import AugmentationConfig

if TYPE_CHECKING:
    from raydfkd.augment.crop_flip import random_crop_flip, random_roll_flip
    from raydfkd.augment.levels import BatchAugmentation
    from raydfkd.augment.resized_crop import random_resized_crop_flip

__all__ = ["AugmentationConfig", "BatchAugmentation", "random_crop_flip", "random_resized_crop_flip", "random_roll_flip"]

_LAZY = {
    "random_crop_flip": "raydfkd.augment.crop_flip",
    "random_resized_crop_flip": "raydfkd.augment.resized_crop",
    "random_roll_flip": "raydfkd.augment.crop_flip",
    "BatchAugmentation": "raydfkd.augment.levels",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'raydfkd.augment' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
