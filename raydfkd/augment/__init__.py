"""Batch augmentation on device tensors: one draw a sample, from an explicit random generator."""

from raydfkd.augment.crop_flip import random_crop_flip

__all__ = ["random_crop_flip"]
