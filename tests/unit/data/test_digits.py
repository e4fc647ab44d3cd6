from __future__ import annotations

import numpy as np
import pytest

from raydfkd.data.datasets import load_dataset
from raydfkd.data.kinds.digits import DigitsConfig
from raydfkd.errors import DataError


def test_the_split_is_fixed_stratified_and_disjoint() -> None:
    from sklearn.datasets import load_digits

    train, test = (load_dataset(DigitsConfig(split=split), (1, 8, 8), 10) for split in ("train", "test"))
    assert (len(train), len(test)) == (1438, 359)
    shares = np.bincount(test.labels) / (np.bincount(test.labels) + np.bincount(train.labels))
    np.testing.assert_allclose(shares, 0.2, atol=0.005)
    whole = np.concatenate([train.images, test.images]).reshape(-1, 64)
    original = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    np.testing.assert_array_equal(np.sort(whole.view("V64").ravel()), np.sort(original.view("V64").ravel()))
    # Part of the published figures: another split would change them all.
    assert test.labels[:12].tolist() == [3, 7, 3, 9, 0, 8, 7, 0, 8, 0, 3, 3]
    assert train.images.max() == 255
    assert (test.split, test.classes, test.num_skipped) == ("test", tuple("0123456789"), 0)


def test_digits_at_another_size_and_in_colour() -> None:
    small = load_dataset(DigitsConfig(max_images=20), (1, 8, 8), 10)
    large = load_dataset(DigitsConfig(max_images=20, convert=True), (3, 16, 16), 10)
    assert large.images.shape == (20, 3, 16, 16)
    np.testing.assert_array_equal(large.labels, small.labels)
    np.testing.assert_allclose(large.images.mean((1, 2, 3)), small.images.mean((1, 2, 3)), rtol=0.1)
    with pytest.raises(DataError, match="1 channel but the task's image_shape has 3"):
        load_dataset(DigitsConfig(), (3, 8, 8), 10)


def test_digits_of_another_task() -> None:
    with pytest.raises(DataError, match="has 10 classes but the task has num_classes 7"):
        load_dataset(DigitsConfig(), (1, 8, 8), 7)
