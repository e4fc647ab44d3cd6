"""What a teacher and its students make of some images, pixel by pixel, for the report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from raydfkd.data.datasets import ImageDataset
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher

NUM_SYNTHETIC = 12
NUM_REAL = 8
CHUNK = 8
"""Images of a forward pass."""


def mask_samples(
    networks: Mapping[str, FrozenTeacher],
    images: np.ndarray,
    sources: np.ndarray,
    real: ImageDataset | None,
    device: torch.device,
    bf16: bool,
) -> dict[str, np.ndarray]:
    """The arrays of samples/masks.npz, see ``run_dir``.

    Args:
        networks: teacher and students by name, each of which takes images in [0,1].
        images: synthetic ones, uint8 [N,C,H,W].
        sources: what made each, str [N].
        real: labelled images, None without any.
    """
    chosen = _spread(len(images), NUM_SYNTHETIC)
    arrays = {
        "network": np.array([*networks]),
        "synthetic_images": images[chosen],
        "synthetic_source": sources[chosen],
        "synthetic_masks": _masks(networks, images[chosen], device, bf16),
    }
    if real is not None:
        rows = _spread(len(real), NUM_REAL)
        arrays |= {
            "real_images": real.images[rows],
            "real_truth": real.labels[rows],
            "real_masks": _masks(networks, real.images[rows], device, bf16),
        }
    return arrays


def _spread(total: int, most: int) -> np.ndarray:
    return np.linspace(0, total - 1, min(most, total)).astype(int)


def _masks(networks: Mapping[str, FrozenTeacher], images: np.ndarray, device: torch.device, bf16: bool) -> np.ndarray:
    """int16 [P,n,H,W]: the class of each pixel by each network."""
    return np.stack(
        [
            np.concatenate(
                [
                    network.logits_of(chunk.to(device), bf16).argmax(1).short().cpu().numpy()
                    for chunk in torch.from_numpy(np.array(images)).split(CHUNK)
                ]
            )
            for network in networks.values()
        ]
    )
