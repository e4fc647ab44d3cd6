"""The Fréchet distance between sets of features, against the formula of Heusel et al. 2017."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from raydfkd.losses.frechet import class_frechet_distance

CLASSES = 3


def features_of(seed: int, *counts: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """So many features [N,4] of each class around a centre of its own, in a random order, and their classes."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    features = 3 * rng.normal(size=(len(counts), 4))[classes] + scale * rng.normal(size=(len(classes), 4))
    return torch.from_numpy(features), torch.from_numpy(classes)


def test_it_is_the_formula_with_a_diagonal_covariance_that_all_classes_share() -> None:
    sets = [features_of(0, 5, 7, 9), features_of(1, 20, 4, 6, scale=2.0)]
    means = [np.stack([f[c == k].mean(0).numpy() for k in range(CLASSES)]) for f, c in sets]
    covariances = [np.diag(((f - torch.from_numpy(m)[c]) ** 2).mean(0).numpy()) for (f, c), m in zip(sets, means, strict=True)]
    trace = np.trace(covariances[0] + covariances[1] - 2 * sqrtm(covariances[0] @ covariances[1])).real
    expected = np.mean([((m - n) ** 2).sum() + trace for m, n in zip(*means, strict=True)])
    assert float(class_frechet_distance(*sets[0], *sets[1], CLASSES)) == pytest.approx(expected, rel=1e-9)


def test_a_set_is_at_distance_0_from_itself_and_a_moved_one_at_the_square_of_the_way() -> None:
    features, classes = features_of(0, 5, 1, 9)
    assert float(class_frechet_distance(features, classes, features, classes, CLASSES)) == 0
    moved = float(class_frechet_distance(features, classes, features + 2, classes, CLASSES))
    assert moved == pytest.approx(4 * 2**2)


def test_exchanged_classes_are_apart_although_all_features_together_are_the_same() -> None:
    features, classes = features_of(0, 6, 6)
    assert float(class_frechet_distance(features, classes, features, 1 - classes, 2)) > 1


def test_a_class_that_only_one_set_has_does_not_count() -> None:
    features, classes = features_of(0, 5, 7, 9)
    few = classes < 2
    shared = float(class_frechet_distance(features[few], classes[few], features[few], classes[few], CLASSES))
    assert shared == 0
    moved = torch.where((classes == 0)[:, None], features + 2, features)
    third = float(class_frechet_distance(features, classes, moved[few], classes[few], CLASSES))
    spread = float(class_frechet_distance(features, classes, features[few], classes[few], CLASSES))
    assert third - spread == pytest.approx(4 * 2**2 / 2), "the mean over the two that both have"
    none = class_frechet_distance(features[classes == 0], classes[classes == 0], features[few], 1 + 0 * classes[few], CLASSES)
    assert torch.isnan(none)


def test_one_image_a_class_has_no_spread() -> None:
    one, classes = features_of(0, 1, 1, 1)
    many = one.repeat_interleave(4, 0) + torch.tensor([[1.0], [-1], [1], [-1]]).repeat(3, 4).double()
    distance = float(class_frechet_distance(one, classes, many, classes.repeat_interleave(4), CLASSES))
    assert distance == pytest.approx(4), "four features that deviate by 1"
