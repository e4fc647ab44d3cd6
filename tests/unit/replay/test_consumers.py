"""Several students of one buffer: each has priorities of its own over the same items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raydfkd.replay.buffer import ReplayBuffer
from raydfkd.replay.config import SelectorConfig

Make = Callable[..., Any]
Build = Callable[..., ReplayBuffer]

ALPHA = 0.6
DRAWS = 40_000


def frequencies(buffer: ReplayBuffer, consumer: str) -> np.ndarray:
    """Share of the draws that fell on each slot."""
    sample = buffer.sample(consumer, DRAWS // 100, 100, 0)
    return np.bincount(sample.slots.ravel(), minlength=6) / DRAWS


def test_an_update_of_one_students_priorities_leaves_the_others_frequencies_as_they_were(
    make_batch: Make, make_buffer: Build
) -> None:
    """P(i) = p_i^alpha / sum p^alpha of each one's own p; with 40,000 draws a share strays by less than 0.01 (4 sigma)."""
    sampler = SelectorConfig(kind="prioritized", priority_exponent=ALPHA)
    buffer = make_buffer(capacity=6, consumers=("a", "b"), sampler=sampler)
    start = np.array([1, 2, 3, 4, 5, 6], np.float32)
    buffer.insert(make_batch(6, priorities=start), None)
    keys = buffer.shards_after(-1)[0].keys
    expected = {"a": start**ALPHA, "b": start**ALPHA}
    for consumer, learnt in (("a", start[::-1] * 10), ("b", np.array([1, 1, 9, 1, 1, 1], np.float32))):
        buffer.update(consumer, keys, learnt)
        expected[consumer] = learnt**ALPHA
        for name, weights in expected.items():
            closed_form = weights / weights.sum()
            np.testing.assert_allclose(frequencies(buffer, name), closed_form, atol=0.01)
            drawn = buffer.sample(name, 1, 50, 0)
            np.testing.assert_allclose(drawn.importance_weights, (6 * closed_form[drawn.slots]) ** -0.4, rtol=1e-4)


def test_a_batchs_priorities_are_its_judges_and_the_others_begin_with_their_own_largest(
    make_batch: Make, make_buffer: Build
) -> None:
    buffer = make_buffer(capacity=8, consumers=("a", "b"))
    buffer.insert(make_batch(2, priorities=np.array([0.5, 2.0], np.float32)), None)
    keys = buffer.shards_after(-1)[0].keys
    buffer.update("b", keys, np.array([70.0, 30.0]))
    buffer.insert(make_batch(2, 1, priorities=np.array([0.1, 0.2], np.float32)), None, judge="a")
    np.testing.assert_allclose(buffer.analysis("a")["priorities"], [0.5, 2.0, 0.1, 0.2])
    np.testing.assert_allclose(buffer.analysis("b")["priorities"], [70, 30, 70, 70])
    with pytest.raises(ValueError, match="no consumer 'c'"):
        buffer.insert(make_batch(2), None, judge="c")


def test_an_evicted_item_is_gone_for_every_student(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=4, consumers=("a", "b"))
    buffer.insert(make_batch(4), None)
    first = buffer.shards_after(-1)[0].keys
    buffer.insert(make_batch(4, 1), None)
    for consumer in ("a", "b"):
        assert not set(buffer.sample(consumer, 20, 10, 0).keys.ravel()) & set(first)
        assert buffer.update(consumer, first, np.ones(4)) == 4, "all dropped"
