"""Labelled image sources. Used to train a teacher and to evaluate; a data-free run trains on none of it.

The readers are loaded on first use: the configuration tree imports this package, and need not import NumPy for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raydfkd.data.config import DatasetConfig, DigitsConfig, ImageFolderConfig, ParquetConfig, TorchvisionConfig

if TYPE_CHECKING:
    from raydfkd.data.datasets import ImageDataset, load_dataset

__all__ = [
    "DatasetConfig",
    "DigitsConfig",
    "ImageDataset",
    "ImageFolderConfig",
    "ParquetConfig",
    "TorchvisionConfig",
    "load_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in ("ImageDataset", "load_dataset"):
        raise AttributeError(f"module 'raydfkd.data' has no attribute {name!r}")
    from raydfkd.data import datasets

    return getattr(datasets, name)
