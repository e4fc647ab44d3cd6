import numpy as np
import pytest

from raydfkd.replay.config import SelectorConfig
from raydfkd.replay.selectors import (
    ClassBalanced,
    Fifo,
    Limited,
    LowestPriority,
    Prioritized,
    Selector,
    Uniform,
    build_selector,
)

SAMPLERS = ("uniform", "prioritized", "class_balanced")
REMOVERS = ("fifo", "lowest_priority")
NUM_DRAWS = 200_000


def _assert_distribution(selector: Selector, probabilities: np.ndarray) -> None:
    """Stated probabilities equal the closed form, and the draws' chi-square stays below about its 99.9% quantile."""
    slots, stated = selector.select(NUM_DRAWS, np.random.default_rng(0))
    np.testing.assert_allclose(stated, probabilities[slots], rtol=1e-12)
    expected = probabilities * NUM_DRAWS
    observed = np.bincount(slots, minlength=len(probabilities))
    frequent = expected >= 5  # the statistic's condition
    statistic = ((observed - expected)[frequent] ** 2 / expected[frequent]).sum()
    assert statistic < frequent.sum() + 4.5 * np.sqrt(frequent.sum())


@pytest.mark.parametrize(("alpha", "epsilon"), [(0.0, 1e-6), (0.6, 1e-6), (0.6, 1e-2), (1.0, 0.1)])
def test_prioritized_draws_in_proportion_to_the_powered_priority(alpha: float, epsilon: float) -> None:
    priorities = np.random.default_rng(1).exponential(size=40) * np.where(np.arange(40) % 2, 1, -1)
    priorities[3] = 0.0
    selector = Prioritized(40, exponent=alpha, epsilon=epsilon)
    selector.insert(np.arange(40), priorities, np.zeros(40, int))
    powered = (np.abs(priorities) + epsilon) ** alpha
    assert powered[3] > 0  # an item without loss can still be drawn
    _assert_distribution(selector, powered / powered.sum())


def test_uniform_draws_every_present_item_alike() -> None:
    selector = Uniform(50)
    selector.insert(np.arange(50), np.ones(50), np.zeros(50, int))
    selector.remove(np.arange(40, 50))
    _assert_distribution(selector, np.full(40, 1 / 40))


def test_class_balanced_draws_a_class_and_then_an_item() -> None:
    """P(i) = 1 / (C n_c)."""
    selector = ClassBalanced(12)
    selector.insert(np.arange(12), np.ones(12), np.array([0] * 8 + [4] * 2 + [7] * 2))
    selector.remove(np.array([10, 11]))  # class 7 is gone
    _assert_distribution(selector, np.array([1 / 16] * 8 + [1 / 4] * 2))


def test_class_balanced_draws_an_item_in_proportion_to_what_it_holds_of_the_class() -> None:
    """P(i) = (1/C) sum_c h_ic / sum_j h_jc."""
    rng = np.random.default_rng(2)
    held = rng.multinomial(64, [0.9, 0.06, 0.03, 0, 0.01], size=30)
    held[5] = [0, 0, 0, 64, 0]  # the only item of class 3
    selector = ClassBalanced(40)
    selector.insert(np.arange(30), np.ones(30), held)
    selector.insert(np.array([30]), np.ones(1), held[:1])
    selector.remove(np.array([30, 7]))
    held = np.delete(held, 7, axis=0)
    expected = np.insert((held / held.sum(axis=0)).sum(axis=1) / 5, 7, 0.0)
    assert expected.sum() == pytest.approx(1)
    _assert_distribution(selector, expected)


def test_class_balanced_draws_the_same_items_whether_one_position_is_a_class_or_a_histogram() -> None:
    classes = np.random.default_rng(1).integers(0, 6, 50)
    plain, counted = ClassBalanced(50), ClassBalanced(50)
    plain.insert(np.arange(50), np.ones(50), classes)
    counted.insert(np.arange(50), np.ones(50), np.eye(6, dtype=np.int32)[classes])
    for left, right in zip(*(s.select(300, np.random.default_rng(4)) for s in (plain, counted)), strict=True):
        np.testing.assert_array_equal(left, right)


def test_fifo_gives_the_oldest_in_order() -> None:
    selector = Fifo(6)
    selector.insert(np.array([4, 2, 0]), np.ones(3), np.zeros(3, int))
    selector.insert(np.array([1, 5]), np.ones(2), np.zeros(2, int))
    selector.remove(np.array([2]))
    selector.insert(np.array([2]), np.ones(1), np.zeros(1, int))
    assert selector.select(4, np.random.default_rng(0))[0].tolist() == [4, 0, 1, 5]
    assert selector.select(5, np.random.default_rng(0))[0].tolist() == [4, 0, 1, 5, 2]


def test_lowest_priority_gives_the_smallest_and_among_equals_the_oldest() -> None:
    selector = LowestPriority(6)
    selector.insert(np.array([5, 3, 1]), np.array([2.0, 1.0, -1.0]), np.zeros(3, int))
    selector.insert(np.array([0, 2]), np.array([0.5, 1.0]), np.zeros(2, int))
    assert selector.select(3, np.random.default_rng(0))[0].tolist() == [0, 3, 1]
    selector.update(np.array([0]), np.array([9.0]))
    selector.remove(np.array([3]))
    assert selector.select(4, np.random.default_rng(0))[0].tolist() == [1, 2, 5, 0]


def test_limited_draws_every_item_so_often_and_the_least_drawn_first() -> None:
    selector, rng = Limited(30, max_draws=2), np.random.default_rng(0)
    selector.insert(np.arange(20), np.ones(20), np.zeros(20, int))
    first = selector.select(15, rng)[0]
    assert len(set(first)) == 15
    selector.insert(np.arange(20, 25), np.ones(5), np.zeros(5, int))
    second = selector.select(10, rng)[0]
    assert set(first) | set(second) == set(range(25)), "those never drawn come first"
    selector.remove(np.array([3]))
    third = selector.select(19, rng)[0]
    restored = Limited(30, max_draws=2)
    restored.load_state_dict(selector.state_dict())
    last = selector.select(5, np.random.default_rng(5))[0]
    np.testing.assert_array_equal(restored.select(5, np.random.default_rng(5))[0], last)
    assert sorted([*third, *last]) == [i for i in range(25) if i != 3]
    again = selector.select(6, rng)[0]
    assert not np.isin(again, [3, *range(25, 30)]).any(), "beyond the limit: any item that is there"


def test_limited_draws_in_random_order() -> None:
    """Each of four items is as likely to be drawn in any place: counts of 4,000 runs within 4 standard deviations."""
    counts, rng = np.zeros((4, 4)), np.random.default_rng(1)
    for _ in range(4000):
        selector = Limited(4, max_draws=1)
        selector.insert(np.arange(4), np.ones(4), np.zeros(4, int))
        counts[selector.select(4, rng)[0], np.arange(4)] += 1
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(1000 * 0.75)


@pytest.mark.parametrize("histograms", [False, True], ids=["classes", "histograms"])
@pytest.mark.parametrize("kind", [*SAMPLERS, *REMOVERS])
def test_a_restored_selector_goes_on_alike_and_shares_no_memory(kind: str, histograms: bool) -> None:
    rng = np.random.default_rng(3)
    config = SelectorConfig(kind=kind)
    original, restored = build_selector(config, 30), build_selector(config, 30)
    classes = rng.multinomial(9, np.full(4, 0.25), 20) if histograms else rng.integers(0, 4, 20)
    original.insert(np.arange(20), rng.random(20), classes)
    original.remove(np.array([1, 5, 7]))
    state = original.state_dict()
    restored.load_state_dict(state)
    before = [part.copy() for part in original.select(9, np.random.default_rng(4))]
    for selector in (original, restored):
        np.testing.assert_array_equal(selector.select(9, np.random.default_rng(4)), before)
    restored.insert(np.array([1]), np.array([1e-9]), classes[3:4])
    np.testing.assert_array_equal(original.select(9, np.random.default_rng(4)), before)
    fresh = build_selector(config, 30)
    fresh.load_state_dict(state)
    np.testing.assert_array_equal(fresh.select(9, np.random.default_rng(4)), before)
