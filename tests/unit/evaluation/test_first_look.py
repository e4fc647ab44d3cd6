"""What a few evaluation images show of a teacher before a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raydfkd.data.datasets import ImageDataset
from raydfkd.evaluation.first_look import look_at

NAMES = ("ant", "bee", "cat", "dog")


def dataset(classes: tuple[str, ...] = NAMES, size: int = 400) -> ImageDataset:
    """The label is the first pixel."""
    labels = np.arange(size, dtype=np.int64) % len(classes)
    images = np.repeat(labels.astype(np.uint8), 4).reshape(size, 1, 2, 2)
    return ImageDataset(images, labels, classes, "animals", "test", "here")


def teacher(right: float = 1.0, shift: int = 1, classes: int = 4):
    """Right on the given share of images; otherwise ``shift`` classes further."""
    rng = np.random.default_rng(0)

    def classify(images: torch.Tensor) -> torch.Tensor:
        labels = (images[:, 0, 0, 0] * 255).round().long()
        wrong = torch.from_numpy(rng.random(len(labels)) >= right)
        return torch.nn.functional.one_hot(torch.where(wrong, (labels + shift) % classes, labels), classes).float()

    return classify


def told(classifier, data: ImageDataset, classes: tuple[str, ...] | None = NAMES, **recorded: str) -> list[str]:
    return list(look_at(classifier, data, classes, recorded))


def test_a_good_teacher_of_the_same_classes_is_not_warned_of() -> None:
    assert told(teacher(0.9), dataset(), accuracy="0.91", evaluation_split="animals/test") == []
    assert told(teacher(0.4), dataset(), None) == []


@pytest.mark.parametrize("right", [0.0, 0.25])
def test_a_teacher_at_chance_or_below_is_warned_of_with_the_likely_causes(right: float) -> None:
    (sentence,) = told(teacher(right), dataset())
    assert "of 200 evaluation images, which is chance for 4 classes" in sentence
    for cause in ("ant, bee, cat, dog; the teacher's: ant", "teacher.normalization", "size and channels", "weights belong"):
        assert cause in sentence


def test_other_classes_are_warned_of() -> None:
    (sentence,) = told(teacher(), dataset(("one", "two", "three", "four")))
    assert sentence == (
        "the evaluation data's classes are not the teacher's, so labels are taken in the data's order (the data's: one, two, "
        "three, four; the teacher's: ant, bee, cat, dog)"
    )
    (sentence,) = told(teacher(), dataset(("1", "2", "3", "4")), ("0", "1", "2", "3"))
    assert "(the data's: 1, 2, 3, 4; the teacher's: 0, 1, 2, 3)" in sentence


def test_numbers_in_their_order_are_no_names() -> None:
    """A data set that names no classes has these."""
    assert told(teacher(), dataset(("0", "1", "2", "3"))) == []
    names = tuple(sorted(str(k) for k in range(12)))
    (sentence,) = told(teacher(classes=12), dataset(names), None)
    assert "are numbers and in the order of their texts (the data's: 0, 1, 10, 11, 2, ...): name them 00, 01" in sentence


def test_a_teacher_far_below_what_its_file_records_of_the_same_images_is_warned_of() -> None:
    recorded = {"accuracy": "0.95", "evaluation_split": "animals/test"}
    (sentence,) = told(teacher(0.6), dataset(), **recorded)
    assert "and its file records 95.0% of all of them" in sentence
    assert told(teacher(0.6), dataset(), accuracy="0.95", evaluation_split="animals/train") == []
