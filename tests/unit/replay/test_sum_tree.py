import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydfkd.replay.sum_tree import SumTree


def test_a_uniform_falls_to_the_index_whose_slice_of_the_sum_holds_it() -> None:
    tree = SumTree(5)
    tree.set(np.arange(5), np.array([1.0, 0.0, 2.0, 1.0, 0.0]))
    drawn = tree.draw(np.array([0.0, 0.2499, 0.25, 0.7499, 0.75, np.nextafter(1.0, 0.0)]))
    assert tree.total == 4.0
    assert drawn.tolist() == [0, 0, 2, 2, 3, 3]


def test_a_target_rounded_up_to_the_end_of_the_sum_stays_with_the_last_positive_value() -> None:
    left, right = 0.22663806972033623, 0.5986192915929165
    target = np.nextafter(1.0, 0.0) * (left + right)
    assert target - left == right  # rounded: the exact difference is smaller
    tree = SumTree(4)
    tree.set(np.arange(4), np.array([left, 0.0, right, 0.0]))
    assert tree.draw(np.array([np.nextafter(1.0, 0.0)])).tolist() == [2]


def test_of_a_repeated_index_the_last_value_stays() -> None:
    tree = SumTree(3)
    tree.set(np.array([1, 1, 2, 1]), np.array([5.0, 6.0, 1.0, 7.0]))
    assert tree.get(np.arange(3)).tolist() == [0.0, 7.0, 1.0]
    assert tree.total == 8.0


def test_the_tree_after_many_updates_equals_the_tree_built_at_once() -> None:
    rng = np.random.default_rng(0)
    capacity = 1000
    values = np.zeros(capacity)
    updated, fresh = SumTree(capacity), SumTree(capacity)
    for _ in range(2000):
        indices = rng.integers(capacity, size=64)
        new = rng.random(64) * 10.0 ** rng.integers(-9, 9, size=64)
        updated.set(indices, new)
        values[indices] = new
    fresh.set(np.arange(capacity), values)
    assert updated.total == fresh.total  # bit for bit: nothing may have gathered
    np.testing.assert_array_equal(updated.get(np.arange(capacity)), values)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 1e-12, 0.1, 1 / 3, 1.0, 1e6, 1e12]), min_size=1, max_size=70),
    uniforms=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
)
def test_no_rounding_ever_draws_an_index_of_value_zero(values: list[float], uniforms: list[float]) -> None:
    tree = SumTree(len(values))
    tree.set(np.arange(len(values)), np.array(values))
    if sum(values) == 0:
        with pytest.raises(ValueError, match="without positive values"):
            tree.draw(np.array(uniforms))
        return
    drawn = tree.draw(np.array(uniforms))
    assert drawn.max() < len(values)
    assert (np.array(values)[drawn] > 0).all()
