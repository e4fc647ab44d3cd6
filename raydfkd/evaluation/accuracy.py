"""Figure of merit on real labelled images and agreement with the teacher. The only reader of evaluation data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raydfkd.errors import DataError
from raydfkd.evaluation.scores import ACCURACY, Measure, agreement, confusion_matrix
from raydfkd.models.precision import evaluating

if TYPE_CHECKING:
    from raydfkd.data.datasets import ImageDataset

logger = logging.getLogger(__name__)

Classifier = Callable[[torch.Tensor], torch.Tensor]
"""float images [B,C,H,W] in [0,1] to logits [B,K] or [B,K,H,W]: a network that owns its normalisation."""


@dataclass(frozen=True)
class Evaluation:
    """One network on one split.

    Attributes:
        metric: the figure of merit, such as the share of images classified correctly, in [0,1].
        num_images: N.
        split: data set and split that were read, e.g. ``digits/test``.
        per_class: float64 [K], the metric of each class; NaN for a class that has none.
        predictions: [N] or [N,H,W], as labels; -1 where the logits were not finite, which counts as wrong.
        agreement: share of images, or of pixels, on which the network and the teacher predict the same class; None without a
            teacher.
        metric_name: what ``metric`` is.
        others: further figures by name, such as the accuracy of pixels.
    """

    metric: float
    num_images: int
    split: str
    per_class: np.ndarray
    predictions: np.ndarray
    agreement: float | None = None
    metric_name: str = ACCURACY.name
    others: dict[str, float] = field(default_factory=dict)

    @property
    def details(self) -> dict[str, Any]:
        """The further figures and, where there are any, ``per_class``, None for a class that has no figure; for result.json."""
        if not self.others:
            return {}
        return {**self.others, "per_class": [None if np.isnan(one) else float(one) for one in self.per_class]}


def _predict(
    model: Classifier,
    images: torch.Tensor,
    dataset: ImageDataset,
    batch_size: int,
    device: torch.device,
    autocast_dtype: torch.dtype | None,
) -> np.ndarray:
    parts, positions = [], dataset.labels.shape[1:]
    kind = torch.from_numpy(dataset.labels[:0]).dtype
    precision = torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None)
    with torch.no_grad(), evaluating(model), precision:
        for batch in images.split(batch_size):
            logits = model(batch.to(device, non_blocking=True).float().div_(255.0))
            if logits.shape[1:] != (dataset.num_classes, *positions):
                labelled = f" and masks of {'x'.join(map(str, positions))} pixels" if positions else ""
                raise DataError(
                    f"the network gives outputs of shape {list(logits.shape)} but the data set has {dataset.num_classes} "
                    f"classes{labelled}: evaluate it on the task it was trained for"
                )
            finite = logits.isfinite().all(dim=1)
            parts.append(torch.where(finite, logits.argmax(dim=1), -1).to(kind))
    predictions = torch.cat(parts).cpu().numpy()
    if (broken := int((predictions < 0).sum())) > 0:
        what = "pixels" if positions else "images"
        logger.warning("%d of %d %s have non-finite logits and count as misclassified", broken, predictions.size, what)
    return predictions


def evaluate(
    model: Classifier,
    dataset: ImageDataset,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    teacher_predictions: np.ndarray | None = None,
    measure: Measure = ACCURACY,
) -> Evaluation:
    """Classifies every image, or every pixel of it, once.

    Args:
        model: takes float images [B,C,H,W] in [0,1] on ``device``; a module is in evaluation mode during the call.
        dataset: the images; the result records what was read in ``split``.
        batch_size: images in one forward pass.
        device: where the model is.
        autocast_dtype: e.g. ``torch.bfloat16``, or None for float32.
        teacher_predictions: of the teacher on the same data set; gives ``agreement``.
        measure: the figure of merit.

    Raises:
        DataError: the model's outputs do not fit the data set's classes.
    """
    images = torch.from_numpy(dataset.images)
    predictions = _predict(model, images, dataset, batch_size, torch.device(device), autocast_dtype)
    return _evaluation(predictions, dataset, teacher_predictions, measure)


def _evaluation(
    predictions: np.ndarray, dataset: ImageDataset, teacher_predictions: np.ndarray | None, measure: Measure
) -> Evaluation:
    scores = measure.of(confusion_matrix(dataset.labels, predictions, dataset.num_classes))
    return Evaluation(
        metric=scores.metric,
        num_images=len(dataset),
        split=f"{dataset.name}/{dataset.split}",
        per_class=scores.per_class,
        predictions=predictions,
        agreement=None if teacher_predictions is None else agreement(predictions, teacher_predictions),
        metric_name=measure.name,
        others=scores.others,
    )


class Evaluator:
    """Evaluates students on one data set against their teacher, caching the teacher's predictions.

    The images stay on the device as uint8. ``teacher`` is None if there is none to compare with; ``measure`` is the figure of
    merit.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        teacher: Classifier | None = None,
        batch_size: int = 500,
        device: torch.device | str = "cpu",
        autocast_dtype: torch.dtype | None = None,
        measure: Measure = ACCURACY,
    ) -> None:
        self.dataset = dataset
        self.measure = measure
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
        return _evaluation(self._predict(self._teacher), self.dataset, None, self.measure)

    def evaluate(self, student: Classifier) -> Evaluation:
        """The figure of merit and, where there is a teacher, agreement with it, in one pass of the student."""
        teacher = None if self.teacher is None else self.teacher.predictions
        return _evaluation(self._predict(student), self.dataset, teacher, self.measure)

    def _predict(self, model: Classifier) -> np.ndarray:
        return _predict(model, self._images, self.dataset, self._batch_size, self._device, self._autocast_dtype)
