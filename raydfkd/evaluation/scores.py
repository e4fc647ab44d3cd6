"""Figures computed from predictions alone. Numpy only."""

from __future__ import annotations

import numpy as np

from raydfkd.replay.statistics import relative_entropy


def agreement(predictions_a: np.ndarray, predictions_b: np.ndarray) -> float:
    """Share of images on which two networks predict the same class, in [0,1].

    Raises:
        ValueError: they are not predictions of the same, non-empty set of images.
    """
    if predictions_a.shape != predictions_b.shape or predictions_a.size == 0:
        raise ValueError(f"predictions of shapes {predictions_a.shape} and {predictions_b.shape} cannot be compared")
    return float(np.mean(predictions_a == predictions_b))


def class_entropy(counts: np.ndarray) -> float:
    """Relative entropy of a class histogram, H / log K: 1 is uniform, 0 is a single class (or no item at all).

    The figure of the surrogate-dataset study, which predicts distillation success from the teacher's
    predictions over the transfer set.

    Args:
        counts: [K], non-negative, K >= 2.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 1 or len(counts) < 2 or counts.min() < 0:
        raise ValueError(f"class counts must be a vector of at least 2 non-negative numbers, got shape {counts.shape}")
    return relative_entropy(counts)
