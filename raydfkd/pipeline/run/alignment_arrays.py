"""What the report shows of feature alignment: features of prototypes and of the first and last synthetic images, and which of
these each prototype drew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from raydfkd.losses.frechet import class_frechet_distance
from raydfkd.types import SyntheticBatch

MOST_IMAGES = 600
"""Images of each kind whose features are kept."""
MOST_CANDIDATES = 2000
"""Newest synthetic images among which each prototype's nearest are looked for."""
MOST_ROWS = 40
"""Prototypes shown with their nearest images."""
NUM_NEAREST = 8

ReadFeatures = Callable[[np.ndarray], np.ndarray]
"""From images uint8 [n,C,H,W] to the teacher's penultimate features float32 [n,F]."""
Labelled = tuple[np.ndarray, np.ndarray]
"""Features [n,F] and classes [n]."""


def alignment_arrays(
    prototypes: SyntheticBatch,
    made: Sequence[tuple[int, SyntheticBatch]],
    real: Labelled | None,
    num_classes: int,
    features: ReadFeatures,
) -> dict[str, np.ndarray]:
    """The arrays of analysis/alignment.npz, see ``run_dir``.

    First and last images are at most ``MOST_IMAGES`` each, and no image is both. A synthetic image is of the class that the
    teacher gives it.

    Args:
        prototypes: ``targets`` are their classes.
        made: the synthetic images that the buffer still has, as (number of the batch in the run, images), in order; there
            are at least two images.
        real: evaluation images, None without any.
        num_classes: K.
    """
    images = np.concatenate([batch.images for _, batch in made])
    classes = np.concatenate([batch.teacher_class for _, batch in made])
    numbers = np.concatenate([np.full(len(batch), number) for number, batch in made])
    count = min(MOST_IMAGES, len(images) // 2)
    candidates = features(images[-max(count, MOST_CANDIDATES) :])
    sets = {
        "prototype": (features(prototypes.images), prototypes.targets),
        "first": (features(images[:count]), classes[:count]),
        "last": (candidates[-count:], classes[-count:]),
    }
    shown = _spread_over_classes(prototypes.targets)
    nearest = _nearest(sets["prototype"][0][shown], candidates)
    arrays: dict[str, np.ndarray] = {}
    for name, (kept, of_class) in sets.items():
        arrays |= {f"{name}_features": kept, f"{name}_class": of_class}
    return arrays | {
        "first_batches": numbers[[0, count - 1]],
        "last_batches": numbers[[-count, -1]],
        "distances": _distances(sets, real, num_classes),
        "shown_class": prototypes.targets[shown],
        "shown_images": prototypes.images[shown],
        "nearest_images": images[-len(candidates) :][nearest],
    }


def _distances(sets: dict[str, Labelled], real: Labelled | None, num_classes: int) -> np.ndarray:
    """[3,2], of prototypes, first and last images from the prototypes and from real images; NaN without the latter."""
    rows = np.full((len(sets), 2), np.nan)
    for row, of_row in enumerate(sets.values()):
        for column, other in enumerate((sets["prototype"], real)):
            if other is not None:
                rows[row, column] = float(class_frechet_distance(*_tensors(*of_row), *_tensors(*other), num_classes))
    return rows


def _tensors(features: np.ndarray, classes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(features.astype(np.float64)), torch.from_numpy(classes.astype(np.int64))


def _spread_over_classes(classes: np.ndarray) -> np.ndarray:
    """Rows of up to ``MOST_ROWS`` prototypes in the order of their classes: as many of each as there is room for, and two at
    most; with too many classes, one of each of the first."""
    each = 2 if 2 * len(np.unique(classes)) <= MOST_ROWS else 1
    rows = [np.flatnonzero(classes == k)[:each] for k in np.unique(classes)]
    return np.concatenate(rows)[:MOST_ROWS]


def _nearest(features_PF: np.ndarray, candidates_NF: np.ndarray) -> np.ndarray:
    """int64 [P,n]: the candidates nearest to each, the nearest first."""
    distances_PN = torch.cdist(torch.from_numpy(features_PF).double(), torch.from_numpy(candidates_NF).double())
    return distances_PN.topk(min(NUM_NEAREST, len(candidates_NF)), largest=False).indices.numpy()
