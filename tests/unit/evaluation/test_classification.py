from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydfkd.data.datasets import ImageDataset
from raydfkd.errors import DataError
from raydfkd.evaluation import Evaluator, evaluate


def dataset_of(labels: list[int], marks: list[int], num_classes: int = 3) -> ImageDataset:
    """Images whose pixel value, as a share of 255, is all that a :class:`Reader` looks at: mark m is class m."""
    images = np.zeros((len(labels), 1, 4, 4), dtype=np.uint8)
    images[:] = np.array(marks, dtype=np.uint8)[:, None, None, None] * 51
    return ImageDataset(images, np.array(labels), tuple("abc")[:num_classes], "toy", "held_out", "memory")


class Reader(nn.Module):
    """Knows the class from the mark, counts its images, and tells whether it is in evaluation mode."""

    def __init__(self, num_classes: int = 3, shift: int = 0) -> None:
        super().__init__()
        self.num_classes, self.shift = num_classes, shift
        self.num_images, self.modes, self.with_grad = 0, set(), set()

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert images.max() <= 1
        self.num_images += len(images)
        self.modes.add(self.training)
        self.with_grad.add(torch.is_grad_enabled())
        marks = (images.mean((1, 2, 3)) * 5).round().long() + self.shift
        return nn.functional.one_hot(marks % self.num_classes, self.num_classes).float()


def test_accuracy_per_class_and_predictions() -> None:
    dataset = dataset_of(labels=[0, 0, 1, 1, 1], marks=[0, 1, 1, 1, 2])
    model = Reader().train()
    result = evaluate(model, dataset, batch_size=2)
    assert result.metric == pytest.approx(3 / 5)
    np.testing.assert_allclose(result.per_class, [1 / 2, 2 / 3, np.nan])
    assert result.predictions.tolist() == [0, 1, 1, 1, 2]
    assert result.predictions.dtype == np.int64
    assert (result.metric_name, result.num_images, result.split) == ("accuracy", 5, "toy/held_out")
    assert result.agreement is None
    assert model.num_images == 5
    assert model.modes == {False}
    assert model.with_grad == {False}
    assert model.training, "the caller's mode is restored"


def test_an_averaged_student_stays_in_evaluation_mode() -> None:
    """It is evaluated inside of a new container, which begins in training mode."""
    averaged = Reader().eval()
    evaluate(nn.Sequential(nn.Identity(), averaged), dataset_of([0], [0]))
    assert not averaged.training


def test_the_mode_is_restored_when_the_network_fails() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("broken")

    model = Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, dataset_of([0], [0]))
    assert model.training


def test_agreement_counts_common_errors_as_agreement() -> None:
    dataset = dataset_of(labels=[0, 0, 1, 2], marks=[1, 0, 1, 2])
    teacher = evaluate(Reader(), dataset).predictions
    assert evaluate(Reader(), dataset, teacher_predictions=teacher).agreement == 1.0
    assert evaluate(Reader(shift=1), dataset, teacher_predictions=teacher).agreement == 0.0


def test_the_evaluator_asks_the_teacher_once() -> None:
    dataset = dataset_of(labels=[0, 1, 2, 2], marks=[0, 1, 2, 1])
    teacher, student = Reader(), Reader()
    evaluator = Evaluator(dataset, teacher, batch_size=3)
    for _ in range(3):
        result = evaluator.evaluate(student)
    assert evaluator.teacher is not None
    assert evaluator.teacher.metric == result.metric == 0.75
    assert result.agreement == 1.0
    assert (teacher.num_images, student.num_images) == (4, 12)
    assert evaluator.split == "toy/held_out"
    alone = Evaluator(dataset)
    assert alone.teacher is None
    assert alone.evaluate(student).agreement is None


def test_logits_that_are_not_finite_count_as_wrong(caplog: pytest.LogCaptureFixture) -> None:
    def model(images: Tensor) -> Tensor:
        logits = Reader()(images)
        logits[0, 2] = torch.nan
        return logits

    with caplog.at_level(logging.WARNING):
        result = evaluate(model, dataset_of([2, 2], [2, 2]))
    assert result.predictions.tolist() == [-1, 2]
    assert result.metric == 0.5
    assert "1 of 2 images" in caplog.text


def test_outputs_of_another_task() -> None:
    with pytest.raises(DataError, match=r"shape \[2, 5\] but the data set has 3 classes"):
        evaluate(Reader(num_classes=5), dataset_of([0, 1], [0, 1]))
    with pytest.raises(DataError, match="outputs of shape"):
        evaluate(lambda images: images, dataset_of([0, 1], [0, 1]))


def test_autocast_reaches_the_network() -> None:
    seen = []

    def model(images: Tensor) -> Tensor:
        logits = images.flatten(1) @ torch.ones(16, 3)
        seen.append(logits.dtype)
        return logits

    evaluate(model, dataset_of([0], [0]), autocast_dtype=torch.bfloat16)
    evaluate(model, dataset_of([0], [0]))
    assert seen == [torch.bfloat16, torch.float32]
