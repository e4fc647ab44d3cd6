from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydfkd.evaluation import agreement, class_entropy


def test_agreement_is_the_share_of_equal_predictions() -> None:
    assert agreement(np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0])) == 0.75
    with pytest.raises(ValueError, match="cannot be compared"):
        agreement(np.array([0, 1]), np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="cannot be compared"):
        agreement(np.array([]), np.array([]))


def test_class_entropy_closed_forms() -> None:
    assert class_entropy(np.full(10, 7)) == pytest.approx(1.0)
    assert class_entropy(np.array([0, 5, 0])) == 0.0
    assert class_entropy(np.zeros(4)) == 0.0
    assert class_entropy(np.array([1, 1, 0, 0])) == pytest.approx(0.5)
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(3)
    assert class_entropy(np.array([3, 1, 0])) == pytest.approx(expected)
    for wrong in ([3], [[1, 2]], [1, -1]):
        with pytest.raises(ValueError, match="class counts"):
            class_entropy(np.array(wrong))


def test_class_entropy_of_equal_counts_is_at_most_1() -> None:
    """Their sum rounds to 1.0000000000000002 for 5 classes and others."""
    for num_classes in range(2, 200):
        assert 1 - 1e-12 < class_entropy(np.full(num_classes, 7)) <= 1.0
    assert math.copysign(1, class_entropy(np.array([0, 5, 0]))) == 1


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20), st.integers(1, 50))
def test_class_entropy_is_a_fraction_whatever_the_order_or_scale(counts: list[int], scale: int) -> None:
    value = class_entropy(np.array(counts))
    assert 0.0 <= value <= 1.0
    assert class_entropy(np.array(counts[::-1]) * scale) == pytest.approx(value)
