"""A small CIFAR-10 in the official files."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A CIFAR-10 in the official layout with 5 + 1 images a file; returns the test images, uint8 [6,3,32,32]."""
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    sums: dict[str, str] = {}

    def write(name: str, content: dict) -> None:
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    for i in range(1, 6):
        write(f"data_batch_{i}", {"data": images[:2].reshape(2, -1), "labels": [0, 1]})
    write("test_batch", {"data": images.reshape(6, -1), "labels": [3, 1, 4, 1, 5, 9]})
    write("batches.meta", {"label_names": [f"class {k}" for k in range(10)]})
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]})
    return images
