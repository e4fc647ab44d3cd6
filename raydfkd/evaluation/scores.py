"""Figures computed from predictions alone. Numpy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from raydfkd.replay.statistics import relative_entropy


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says.

    Attributes:
        metric: the figure of merit, in [0,1].
        per_class: float64 [K], the same for each class; NaN where it has none.
        others: further figures by name.
    """

    metric: float
    per_class: np.ndarray
    others: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """A figure of merit.

    Attributes:
        name: in result.json and in the metadata of teachers.
        label: for people.
        of: from a confusion matrix (see :func:`confusion_matrix`).
        said: a clause on a network, with ``{value}`` for the figure as text and ``{images}`` for the images.
    """

    name: str
    label: str
    of: Callable[[np.ndarray], Scores]
    said: str


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 [K,K+1]: how many images, or pixels, of the class of the row were predicted as that of the column.

    Args:
        labels: [N] or [N,H,W], -1 where there is none, which does not count.
        predictions: of the same shape, -1 where the network gave none, which is counted in the last column.
    """
    counted = labels >= 0
    of_class, predicted = labels[counted].astype(np.int64), predictions[counted].astype(np.int64)
    places = of_class * (num_classes + 1) + np.where(predicted < 0, num_classes, predicted)
    return np.bincount(places, minlength=num_classes * (num_classes + 1)).reshape(num_classes, num_classes + 1)


def _accuracy(confusion: np.ndarray) -> Scores:
    """The share of right predictions, of all and of each true class."""
    right, counts = confusion.diagonal(), confusion.sum(axis=1)
    per_class = np.full(len(confusion), np.nan)
    np.divide(right, counts, out=per_class, where=counts > 0)
    return Scores(float(right.sum() / counts.sum()), per_class)


def _mean_iou(confusion: np.ndarray) -> Scores:
    """The mean over classes of true positives / (true positives + false positives + false negatives) of all pixels together.

    A class that is neither there nor predicted has none and does not count (Long et al., CVPR 2015, section 5, with the
    counts of the whole set as in Pascal VOC).
    """
    right = confusion.diagonal()
    union = confusion.sum(axis=1) + confusion[:, :-1].sum(axis=0) - right
    per_class = np.full(len(confusion), np.nan)
    np.divide(right, union, out=per_class, where=union > 0)
    counted = confusion.sum()
    pixel_accuracy = float(right.sum() / counted) if counted else float("nan")
    return Scores(float(np.nanmean(per_class)) if counted else float("nan"), per_class, {"pixel_accuracy": pixel_accuracy})


ACCURACY = Measure("accuracy", "accuracy", _accuracy, "is right on {value} of {images}")
MEAN_IOU = Measure("miou", "mean IoU", _mean_iou, "has a mean IoU of {value} on {images}")


def agreement(predictions_a: np.ndarray, predictions_b: np.ndarray) -> float:
    """Share of images, or of their pixels, on which two networks predict the same class, in [0,1].

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
