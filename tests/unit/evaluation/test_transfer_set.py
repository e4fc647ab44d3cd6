"""The figures of a transfer set against closed forms on linear teachers, and what is said of starved classes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydfkd.errors import DataError
from raydfkd.evaluation.transfer_set import (
    boundary_distances,
    describe_starvation,
    distinct_rows,
    inspect_images,
    starved_classes,
)
from raydfkd.models.teachers.teacher import FrozenTeacher


class Linear(nn.Module):
    """Features are the pixels, less a half; logits are linear in them."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.flat = nn.Flatten()
        self.fc = nn.Linear(weight.shape[1], len(weight), bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.flat(images))


def linear_teacher(classes: int = 3) -> FrozenTeacher:
    weight = torch.randn(classes, 16, generator=torch.Generator().manual_seed(1))
    return FrozenTeacher(Linear(weight), classes, (1, 4, 4), (0.5,), (1.0,))


def byte_images(num: int = 30) -> np.ndarray:
    return np.random.default_rng(2).integers(90, 166, (num, 1, 4, 4)).astype(np.uint8)


def test_duplicates_are_counted_once_each() -> None:
    images = byte_images(6)
    assert distinct_rows(images).tolist() == [0, 1, 2, 3, 4, 5]
    assert distinct_rows(images[[0, 1, 0, 2, 0, 1]]).tolist() == [0, 1, 3]


def test_distance_to_the_boundary_of_a_linear_teacher_is_known() -> None:
    """|lead over the runner-up| / |difference of their weights|, to a thousandth of the last step."""
    teacher, images = linear_teacher(2), torch.from_numpy(byte_images()).float() / 255
    with torch.no_grad():
        scores, order = teacher(images).sort(dim=1, descending=True)
    weight = teacher.model.fc.weight  # type: ignore[union-attr, attr-defined]
    first, second = weight[order[:, 0]], weight[order[:, 1]]
    expected = (scores[:, 0] - scores[:, 1]) / (first - second).norm(dim=1)
    found = boundary_distances(teacher, images)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-5)
    short = boundary_distances(teacher, images, num_steps=1)
    assert torch.equal(short == math.inf, expected > math.sqrt(16) / 255)


def test_figures_of_a_set() -> None:
    teacher, images = linear_teacher(), byte_images()
    images = np.concatenate([images, images[:10]])
    found = inspect_images(teacher, images, torch.device("cpu"), bf16=False, num_attacked=12)
    with torch.no_grad():
        probabilities = teacher(torch.from_numpy(images).float() / 255).softmax(1)
    confidence, predicted = probabilities.max(1)
    counts = np.bincount(predicted.numpy(), minlength=3)
    np.testing.assert_array_equal(found.class_counts, counts)
    np.testing.assert_array_equal(found.distinct_class_counts, np.bincount(predicted[:30].numpy(), minlength=3))
    shares = counts / 40
    assert found.class_entropy == pytest.approx(-(shares * np.log(shares)).sum() / np.log(3))
    np.testing.assert_allclose(found.confidences, confidence.numpy(), rtol=1e-5)
    assert found.duplicate_share == pytest.approx(0.25)
    features = torch.from_numpy(images).flatten(1).float() / 255 - 0.5
    pairs = [1 - float(torch.cosine_similarity(a, b, dim=0)) for a, b in itertools.combinations(features, 2)]
    assert found.diversity == pytest.approx(np.mean(pairs), abs=1e-5)
    assert len(found.pair_distances) == 40 * 39 / 2
    assert found.pair_distances.mean() == pytest.approx(found.diversity, abs=1e-5)
    assert np.sort(found.pair_distances)[:10] == pytest.approx(np.zeros(10), abs=1e-6)  # the copies
    assert len(found.boundary_distances) == 12
    assert found.boundary_distance == pytest.approx(np.median(found.boundary_distances))
    assert dict(found.rows())["images"] == 40
    assert dict(found.rows())["mean confidence of the teacher"] == pytest.approx(float(confidence.mean()))


def test_the_boundary_need_not_be_looked_for_and_no_image_is_no_set() -> None:
    teacher = linear_teacher()
    found = inspect_images(teacher, byte_images(1), torch.device("cpu"), num_attacked=0)
    assert len(found.boundary_distances) == 0
    assert found.boundary_distance is None
    assert found.diversity is None
    assert len(found.pair_distances) == 0
    with pytest.raises(DataError, match="no images to inspect"):
        inspect_images(teacher, byte_images(0), torch.device("cpu"))


def test_starved_is_less_than_a_tenth_of_an_even_part() -> None:
    for counts, starved in (([100, 100, 100], []), ([9, 0, 291], [1, 0]), ([10, 0, 290], [1])):
        assert starved_classes(np.array(counts), np.array(counts)).tolist() == starved


def test_copies_do_not_feed_a_class() -> None:
    """However often the one image of a class is repeated, and the more so if that makes the even part larger."""
    assert starved_classes(np.array([100, 100, 100]), np.array([100, 10, 9])).tolist() == [2]
    assert starved_classes(np.array([1000, 1000]), np.array([99, 1])).tolist() == [1, 0]


def test_large_images_go_through_the_teacher_in_smaller_parts() -> None:
    """As many pixels at once as 500 images of 32x32 have, at least one image, and no more than 500 of any."""
    for size, num, expected in ((4, 501, [500, 1]), (32, 501, [500, 1]), (64, 130, [125, 5]), (800, 2, [1, 1])):
        passes: list[int] = []
        network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
        teacher = FrozenTeacher(network, 2, (1, size, size), (0.5,), (1.0,))
        network.register_forward_pre_hook(lambda _, inputs, passes=passes: passes.append(len(inputs[0])))  # type: ignore[misc]
        inspect_images(teacher, np.zeros((num, 1, size, size), np.uint8), torch.device("cpu"), num_attacked=0)
        assert passes == expected
        passes.clear()
        inspect_images(teacher, np.zeros((num, 1, size, size), np.uint8), torch.device("cpu"), num_attacked=num)
        assert max(passes[len(expected) :]) == expected[0]  # the attack


@pytest.mark.parametrize(
    ("counts", "names", "expected"),
    [
        (
            [100, 120, 80],
            None,
            "No class is starved: each of the 3 has, without copies, at least a tenth of its equal share of 100 images.",
        ),
        ([0, 200, 100], None, "1 of 3 classes is starved: the teacher predicts class 0 for no image at all. "),
        (
            [0, 5, 0, 1195],
            ["cat", "dog", "fox", "owl"],
            "3 of 4 classes are starved: the teacher predicts classes cat, fox for no image at all; class dog (5) has, without "
            "copies, less than a tenth of an equal share of 300 images. ",
        ),
        ([3, 9, 1000, 1000], None, "2 of 4 classes are starved: classes 0 (3), 1 (9) have, without copies, less than a tenth"),
        ([0] * 15 + [9000], None, "classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 3 others for no image at all"),
    ],
)
def test_starvation_is_said_in_words(counts: list[int], names: list[str] | None, expected: str) -> None:
    assert expected in describe_starvation(counts, counts, names)


@pytest.mark.parametrize(
    ("distinct", "expected"),
    [
        ([5000, 4000, 500], "No class is starved"),
        (
            [5000, 4000, 3],
            "1 of 3 classes is starved: class 2 (3 distinct images, repeated to 5,000) has, without copies, less than a tenth "
            "of an equal share of 5,000 images. ",
        ),
        ([1, 4000, 3], "classes 0 (1 distinct image, repeated to 5,000), 2 (3 distinct images, repeated to 5,000) have"),
    ],
)
def test_repeated_images_are_told(distinct: list[int], expected: str) -> None:
    assert expected in describe_starvation([5000, 5000, 5000], distinct)
