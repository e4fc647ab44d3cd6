"""Figures computed from predictions alone. Numpy only."""

from __future__ import annotations

import numpy as np

from raydfkd.replay.statistics import relative_entropy


def agreement(predictions_a: np.ndarray, predictions_b: np.ndarray) -> float:
    """Share of images on which two networks name the same class, in [0,1].

    Raises:
        ValueError: they are not predictions of the same, non-empty set of images.
    """
    if predictions_a.shape != predictions_b.shape or predictions_a.size == 0:
        raise ValueError(f"predictions of shapes {predictions_a.shape} and {predictions_b.shape} cannot be compared")
    return float(np.mean(predictions_a == predictions_b))


def class_entropy(counts: np.ndarray) -> float:
    """Relative entropy of a class histogram, H / log K: 1 is uniform, 0 is a single class (or no item at all).

    The figure of the surrogate-dataset study (methods.md 3.15), which predicts distillation success from the teacher's
    predictions over the transfer set.

    Args:
        counts: [K], non-negative, K >= 2.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 1 or len(counts) < 2 or counts.min() < 0:
        raise ValueError(f"class counts must be a vector of at least 2 non-negative numbers, got shape {counts.shape}")
    return relative_entropy(counts)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 [K,K], rows the true class, columns the predicted one; pairs outside [0,K) on either side are left out."""
    labels, predictions = np.ravel(labels).astype(np.int64), np.ravel(predictions).astype(np.int64)
    inside = (labels >= 0) & (labels < num_classes) & (predictions >= 0) & (predictions < num_classes)
    flat = np.bincount(labels[inside] * num_classes + predictions[inside], minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean over classes of TP / (TP + FP + FN); classes that occur in neither truth nor prediction do not count.

    Args:
        confusion: [K,K], rows the true class.
    """
    true_positives = np.diag(confusion).astype(np.float64)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - true_positives
    present = union > 0
    return float(np.mean(true_positives[present] / union[present])) if present.any() else 0.0
