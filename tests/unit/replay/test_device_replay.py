"""Draws, weights and updates on a student's device against the closed form and the sum-tree's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from raydfkd.replay.config import SelectorConfig
from raydfkd.replay.device_replay import DeviceReplay
from raydfkd.replay.importance import importance_weights
from raydfkd.replay.selectors import Prioritized

CONFIG = SelectorConfig(kind="prioritized", priority_exponent=0.6, priority_epsilon=1e-3)
CAPACITY = 50
CPU = torch.device("cpu")


def pair(seed: int = 0, empty: tuple[int, ...] = (0, 7, 48, 49)) -> tuple[Prioritized, DeviceReplay]:
    """The same items in both; some slots are empty, the first and the last ones among them."""
    rng = np.random.default_rng(seed)
    tree = Prioritized(CAPACITY, CONFIG.priority_exponent, CONFIG.priority_epsilon)
    held = np.setdiff1d(np.arange(CAPACITY), empty)
    tree.insert(held, rng.exponential(size=len(held)), held)
    ours = DeviceReplay(CONFIG, CPU)
    ours.load(tree.values())
    return tree, ours


def uniforms(num: int, seed: int = 1) -> Tensor:
    return torch.rand(num, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_same_uniform_numbers_draw_what_the_sum_tree_draws() -> None:
    tree, ours = pair()
    numbers = uniforms(5000)
    slots, weights = ours.draw(numbers, 0.7)
    expected = tree._tree.draw(numbers.numpy())
    np.testing.assert_array_equal(slots.numpy(), expected)
    probabilities = tree.values()[expected] / tree.values().sum()
    np.testing.assert_allclose(weights.numpy(), importance_weights(probabilities, CAPACITY - 4, 0.7), rtol=1e-6)
    assert weights.dtype == torch.float32


def test_frequencies_follow_the_closed_form_and_the_ends_are_never_empty_slots() -> None:
    tree, ours = pair()
    slots, _ = ours.draw(uniforms(200_000), 0.4)
    shares = np.bincount(slots.numpy(), minlength=CAPACITY) / len(slots)
    np.testing.assert_allclose(shares, tree.values() / tree.values().sum(), atol=0.002)  # 4 sigma of the largest
    ends, _ = ours.draw(torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64), 0.4)
    assert ends.tolist() == [1, 47]


def test_normalized_weights_are_shares_of_a_batchs_largest() -> None:
    tree, _ = pair()
    ours = DeviceReplay(CONFIG.model_copy(update={"normalize_importance": "batch"}), CPU)
    ours.load(tree.values())
    _, weights = ours.draw(uniforms(100), 0.4)
    assert weights.max() == 1


def test_updates_are_the_sum_trees_with_repeated_slots_and_without_what_is_no_number() -> None:
    tree, ours = pair()
    slots = torch.tensor([3, 5, 3, 9, 5, 11, 5])
    priorities = torch.tensor([1.0, 2.0, -4.0, 0.0, float("nan"), float("inf"), 0.25])
    before = tree.values()[11]
    ours.update(slots, priorities)
    finite = priorities.isfinite()
    tree.update(slots[finite].numpy(), priorities[finite].numpy())
    np.testing.assert_allclose(ours._values[:-1].numpy(), tree.values(), rtol=1e-12)
    assert ours._values[11] == before
    assert ours._values[-1] == 0
    numbers = uniforms(2000, seed=3)
    np.testing.assert_array_equal(ours.draw(numbers, 0.4)[0].numpy(), tree._tree.draw(numbers.numpy()))


def test_the_last_of_a_repeated_slot_is_the_last_finite_one() -> None:
    _, ours = pair()
    ours.update(torch.tensor([3, 3]), torch.tensor([2.0, float("nan")]))
    assert float(ours._values[3]) == pytest.approx((2.0 + 1e-3) ** 0.6)


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(ValueError, match="every slot is empty"):
        DeviceReplay(CONFIG, CPU).load(np.zeros(4))
