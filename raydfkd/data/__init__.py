"""Labelled image sources. Used to train a teacher and to evaluate; a data-free run trains on none of it."""

from raydfkd.data.config import DatasetConfig, DigitsConfig, ImageFolderConfig, ParquetConfig, TorchvisionConfig
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
