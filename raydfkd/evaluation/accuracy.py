"""Accuracy on real labelled images and agreement with the teacher. The only reader of evaluation data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from raydfkd.errors import DataError
from raydfkd.evaluation.scores import agreement
from raydfkd.models.precision import evaluating

if TYPE_CHECKING:
    from raydfkd.data.datasets import ImageDataset

logger = logging.getLogger(__name__)

Classifier = Callable[[torch.Tensor], torch.Tensor]
"""float images [B,C,H,W] in [0,1] to logits [B,K]: a network that owns its normalisation."""


@dataclass(frozen=True)
class Evaluation:
    """One network on one split.

    Attributes:
        metric: share of images classified correctly, in [0,1].
        num_images: N.
        split: data set and split that were read, e.g. ``digits/test``.
        per_class: float64 [K], accuracy on each true class; NaN for a class without images.
        predictions: int64 [N]; -1 where the logits were not finite, which counts as wrong.
        agreement: share of images on which the network and the teacher predict the same class; None without a teacher.
        metric_name: what ``metric`` is.
    """

    metric: float
    num_images: int
    split: str
    per_class: np.ndarray
    predictions: np.ndarray
    agreement: float | None = None
    metric_name: str = "accuracy"


def _predict(
    model: Classifier,
    images: torch.Tensor,
    num_classes: int,
    batch_size: int,
    device: torch.device,
    autocast_dtype: torch.dtype | None,
) -> np.ndarray:
    parts = []
    precision = torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None)
    with torch.no_grad(), evaluating(model), precision:
        for batch in images.split(batch_size):
            logits = model(batch.to(device, non_blocking=True).float().div_(255.0))
            if logits.ndim != 2 or logits.shape[1] != num_classes:
                raise DataError(
                    f"the network gives outputs of shape {list(logits.shape)} but the data set has {num_classes} classes: "
                    "evaluate it on the task it was trained for"
                )
            finite = logits.isfinite().all(dim=1)
            parts.append(torch.where(finite, logits.argmax(dim=1), -1))
    predictions = torch.cat(parts).cpu().numpy()
    if (broken := int((predictions < 0).sum())) > 0:
        logger.warning("%d of %d images have non-finite logits and count as misclassified", broken, len(predictions))
    return predictions


def evaluate(
    model: Classifier,
    dataset: ImageDataset,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    teacher_predictions: np.ndarray | None = None,
) -> Evaluation:
    """Classifies every image once.

    Args:
        model: takes float images [B,C,H,W] in [0,1] on ``device``; a module is in evaluation mode during the call.
        dataset: the images; the result records what was read in ``split``.
        batch_size: images in one forward pass.
        device: where the model is.
        autocast_dtype: e.g. ``torch.bfloat16``, or None for float32.
        teacher_predictions: int64 [N] of the teacher on the same data set; gives ``agreement``.

    Raises:
        DataError: the model's outputs do not fit the data set's classes.
    """
    images = torch.from_numpy(dataset.images)
    predictions = _predict(model, images, dataset.num_classes, batch_size, torch.device(device), autocast_dtype)
    return _evaluation(predictions, dataset, teacher_predictions)


def _evaluation(predictions: np.ndarray, dataset: ImageDataset, teacher_predictions: np.ndarray | None) -> Evaluation:
    right = predictions == dataset.labels
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    hits = np.bincount(dataset.labels[right], minlength=dataset.num_classes)
    per_class = np.full(dataset.num_classes, np.nan)
    np.divide(hits, counts, out=per_class, where=counts > 0)
    return Evaluation(
        metric=float(right.mean()),
        num_images=len(dataset),
        split=f"{dataset.name}/{dataset.split}",
        per_class=per_class,
        predictions=predictions,
        agreement=None if teacher_predictions is None else agreement(predictions, teacher_predictions),
    )


class Evaluator:
    """Evaluates students on one data set against their teacher, caching the teacher's predictions.

    The images stay on the device as uint8. ``teacher`` is None if there is none to compare with.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        teacher: Classifier | None = None,
        batch_size: int = 500,
        device: torch.device | str = "cpu",
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        self.dataset = dataset
        self._teacher = teacher
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._autocast_dtype = autocast_dtype
        self._images = torch.from_numpy(dataset.images).to(self._device)

    @property
    def split(self) -> str:
        return f"{self.dataset.name}/{self.dataset.split}"

    @cached_property
    def teacher(self) -> Evaluation | None:
        """The teacher's own evaluation."""
        if self._teacher is None:
            return None
        return _evaluation(self._predict(self._teacher), self.dataset, None)

    def evaluate(self, student: Classifier) -> Evaluation:
        """Accuracy and, where there is a teacher, agreement with it, in one pass of the student."""
        teacher = self.teacher
        return _evaluation(self._predict(student), self.dataset, None if teacher is None else teacher.predictions)

    def _predict(self, model: Classifier) -> np.ndarray:
        return _predict(model, self._images, self.dataset.num_classes, self._batch_size, self._device, self._autocast_dtype)
