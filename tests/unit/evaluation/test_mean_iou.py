"""Mean IoU, pixel accuracy and agreement against loops over pixels."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from torch import Tensor, nn

from raydfkd.data.datasets import ImageDataset
from raydfkd.errors import DataError
from raydfkd.evaluation import Evaluator, evaluate
from raydfkd.evaluation.first_look import look_at
from raydfkd.evaluation.scores import ACCURACY, MEAN_IOU, confusion_matrix

NUM_CLASSES = 4


def masks(seed: int, classes: int = NUM_CLASSES) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, classes, (6, 4, 8)).astype(np.int16)


def iou(labels: np.ndarray, predictions: np.ndarray, k: int) -> float:
    """Of class k, from sets of pixels that count."""
    pixels = [place for place in np.ndindex(labels.shape) if labels[place] >= 0]
    true = {place for place in pixels if labels[place] == k}
    found = {place for place in pixels if predictions[place] == k}
    return len(true & found) / len(true | found) if true | found else float("nan")


def test_mean_iou_is_that_of_sets_of_pixels() -> None:
    labels, predictions = masks(0), masks(1).clip(min=0)
    scores = MEAN_IOU.of(confusion_matrix(labels, predictions, NUM_CLASSES + 1))
    expected = [iou(labels, predictions, k) for k in range(NUM_CLASSES + 1)]
    np.testing.assert_allclose(scores.per_class, expected)
    assert np.isnan(scores.per_class[-1]), "a class that is nowhere has none"
    assert scores.metric == pytest.approx(np.mean(expected[:-1]))
    counted = labels >= 0
    assert scores.others == {"pixel_accuracy": pytest.approx((labels == predictions)[counted].mean())}
    perfect = MEAN_IOU.of(confusion_matrix(labels, labels, NUM_CLASSES))
    assert (perfect.metric, perfect.others["pixel_accuracy"]) == (1.0, 1.0)


def test_a_pixel_without_a_finite_prediction_is_wrong_and_of_no_class() -> None:
    labels = np.array([[[0, 0, 1, 1]]], np.int16)
    scores = MEAN_IOU.of(confusion_matrix(labels, np.array([[[0, -1, 1, -1]]]), 2))
    assert scores.per_class.tolist() == [0.5, 0.5]
    assert scores.others["pixel_accuracy"] == 0.5


def test_the_same_matrix_gives_accuracy() -> None:
    labels, predictions = np.array([0, 0, 1, 2]), np.array([0, 1, 1, -1])
    scores = ACCURACY.of(confusion_matrix(labels, predictions, 4))
    assert (scores.metric, scores.others) == (0.5, {})
    np.testing.assert_array_equal(scores.per_class, [0.5, 1.0, 0.0, np.nan])


class Painter(nn.Module):
    """Sees a pixel's class in its grey value; ``shift`` makes it wrong."""

    def __init__(self, shift: int = 0, shrink: int = 1) -> None:
        super().__init__()
        self.shift, self.shrink = shift, shrink

    def forward(self, images: Tensor) -> Tensor:
        seen = ((images[:, 0] * 255 / 50).round().long() + self.shift) % NUM_CLASSES
        logits = nn.functional.one_hot(seen, NUM_CLASSES).movedim(-1, 1).float()
        return logits[:, :, :: self.shrink, :: self.shrink]


def painted(labels: np.ndarray) -> ImageDataset:
    images = (np.maximum(labels, 0) * 50).astype(np.uint8)[:, None]
    return ImageDataset(images, labels, tuple("abcd"), "toy", "test", "memory")


def test_an_evaluator_measures_students_beside_their_teacher() -> None:
    dataset = painted(masks(0))
    evaluator = Evaluator(dataset, Painter(), batch_size=4, measure=MEAN_IOU)
    assert evaluator.teacher is not None
    assert (evaluator.teacher.metric, evaluator.teacher.metric_name) == (1.0, "miou")
    found = evaluator.evaluate(Painter(shift=1))
    assert (found.metric, found.agreement, found.others) == (0.0, 0.0, {"pixel_accuracy": 0.0})
    assert found.predictions.dtype == np.int16
    assert found.details == {"pixel_accuracy": 0.0, "per_class": [0.0] * NUM_CLASSES}
    with pytest.raises(DataError, match=r"outputs of shape \[4, 4, 2, 4\] but the data set has 4 classes and masks of 4x8 pix"):
        evaluate(Painter(shrink=2), dataset, batch_size=4, measure=MEAN_IOU)


def test_broken_logits_are_told_by_their_number_of_pixels(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Painter):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            logits[:, :, 0, 0] = float("nan")
            return logits

    with caplog.at_level(logging.WARNING):
        found = evaluate(Broken(), painted(masks(0).clip(min=0)), measure=MEAN_IOU)
    assert "6 of 192 pixels have non-finite logits" in caplog.text
    assert found.others["pixel_accuracy"] == pytest.approx(186 / 192)


def test_a_first_look_speaks_of_the_mean_iou() -> None:
    dataset = painted(masks(0))
    (told,) = look_at(Painter(shift=1), dataset, tuple("abcd"), {}, measure=MEAN_IOU)
    assert told.startswith("the teacher has a mean IoU of 0.0% on 6 evaluation images, which is chance for 4 classes")
    assert (
        list(look_at(Painter(), dataset, tuple("abcd"), {"miou": "1.0", "evaluation_split": "toy/test"}, measure=MEAN_IOU))
        == []
    )
