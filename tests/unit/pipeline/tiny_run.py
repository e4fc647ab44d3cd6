"""A whole distillation of seconds: real digits, tiny networks, the local runner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from raydfkd.data.datasets import load_dataset
from raydfkd.data.kinds.digits import DigitsConfig
from raydfkd.models.catalog import build_classifier
from raydfkd.models.weights import save_weights
from raydfkd.pipeline.run.recorder import Watcher

SHAPE, CLASSES = (1, 8, 8), 10


def train_teacher(path: Path) -> Path:
    """A small network that has seen the digits for a moment: most of them right, and BatchNorm statistics of real images."""
    data = load_dataset(DigitsConfig(split="train"), SHAPE, CLASSES)
    images, labels = torch.from_numpy(data.images).float() / 255, torch.from_numpy(data.labels)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = build_classifier("small_cnn_8", CLASSES, SHAPE)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    for _ in range(60):
        chosen = torch.randint(0, len(labels), (64,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(network((images[chosen] - 0.3) / 0.4), labels[chosen]).backward()
        optimizer.step()
    save_weights(network, path, {"mean": "[0.3]", "std": "[0.4]", "image_shape": "[1, 8, 8]", "num_classes": "10"})
    return path


def experiment(teacher: Path) -> dict[str, Any]:
    return {
        "task": {"num_classes": CLASSES, "image_shape": list(SHAPE)},
        "teacher": {"model": "small_cnn_8", "checkpoint": str(teacher)},
        "sources": {
            "inversion": {
                "method": "ssdkd", "batch_size": 16, "base_channels": 4, "latent_dim": 8, "crop_padding": 1, "flip": False,
            }
        },
        "replay": {"synthetic": {"capacity": 40, "sampler": {"kind": "prioritized"}}},  # full after three batches
        "students": {"small": {"model": "small_cnn_4", "batch_size": 16, "crop_padding": 1, "flip": False, "ema_decay": 0.5}},
        "schedule": {"warmup_batches": 2, "rounds": 2, "student_steps_per_round": 4},
        "evaluation": {"dataset": {"kind": "digits", "max_images": 60}, "period_steps": 4},
        "runtime": {"runner": "local", "device": "cpu", "bf16": False, "log_period_steps": 4, "checkpoint_period_rounds": 1},
    }  # fmt: skip


class At(Watcher):
    """Does something once, at the first record that is asked for."""

    def __init__(self, wanted: Callable[[dict[str, Any]], bool], do: Callable[[], None]) -> None:
        self._wanted, self._do, self.done = wanted, do, False

    def update(self, record: dict[str, Any]) -> None:
        if not self.done and self._wanted(record):
            self.done = True
            self._do()
