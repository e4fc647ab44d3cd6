"""Values of a sweep: what is laid out, drawn and moved."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from raydfkd.pipeline.sweep.space import ChoiceConfig, GridConfig, RangeConfig, draws_of, explore, product_of, star_of


def test_the_product_has_every_combination_and_the_last_key_changes_fastest() -> None:
    points = product_of({"a": GridConfig(values=(1, 2)), "b": GridConfig(values=("x", "y"))})
    assert points == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


def test_one_at_a_time_keeps_the_others_at_the_base_and_has_the_base_once() -> None:
    space = {"a": GridConfig(values=(1, 2, 3)), "b": GridConfig(values=(7, 8))}
    assert star_of(space, {"a": 2, "b": 7}) == [{"a": 1, "b": 7}, {"a": 2, "b": 7}, {"a": 3, "b": 7}, {"a": 2, "b": 8}]


def draws(entry: Any, number: int = 4000) -> np.ndarray:
    return np.array([point["k"] for point in draws_of({"k": entry}, number, seed=0)])


def test_ranges_are_drawn_from_their_distribution() -> None:
    """Means of 4,000 draws within 4 standard errors of the closed form."""
    uniform = draws(RangeConfig(kind="uniform", low=1, high=5))
    assert abs(uniform.mean() - 3) < 4 * (4 / 12**0.5) / 4000**0.5
    logarithmic = np.log10(draws(RangeConfig(kind="log_uniform", low=0.001, high=10)))
    assert abs(logarithmic.mean() - -1) < 4 * (4 / 12**0.5) / 4000**0.5
    whole = draws(RangeConfig(kind="int", low=2, high=4))
    assert set(whole.tolist()) == {2, 3, 4}
    assert np.bincount(whole)[2:].min() > 4000 / 3 * 0.9
    assert set(draws(RangeConfig(kind="log_int", low=1, high=100)).tolist()) <= set(range(1, 101))
    assert set(draws(ChoiceConfig(values=("a", "b")), 50).tolist()) == {"a", "b"}


def test_the_same_seed_draws_the_same() -> None:
    space = {"a": RangeConfig(kind="uniform", low=0, high=1), "b": ChoiceConfig(values=(1, 2, 3))}
    assert draws_of(space, 5, seed=3) == draws_of(space, 5, seed=3)
    assert draws_of(space, 5, seed=3) != draws_of(space, 5, seed=4)


@pytest.mark.parametrize("kind", ["uniform", "log_uniform", "int", "log_int"])
def test_a_range_is_tried_at_both_ends_and_inside(kind: Any) -> None:
    low, inside, high = RangeConfig(kind=kind, low=1, high=9).probes
    assert (low, high) == (1, 9)
    assert 1 < inside < 9
    assert (inside % 1 == 0) == (kind in ("int", "log_int"))


@pytest.mark.parametrize(
    ("kind", "low", "high", "says"),
    [
        ("uniform", 2, 2, "not a range"),
        ("uniform", float("nan"), 2, "not a range"),
        ("log_uniform", 0, 1, "needs low above 0"),
        ("int", 1.5, 3, "needs whole ends"),
        ("log_int", 0, 3, "needs low above 0"),
    ],
)
def test_ranges_that_are_none(kind: Any, low: float, high: float, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RangeConfig(kind=kind, low=low, high=high)


def test_exploring_moves_only_what_may_move_and_never_past_the_ends() -> None:
    space = {
        "lr": RangeConfig(kind="log_uniform", low=0.09, high=0.11),
        "steps": RangeConfig(kind="int", low=1, high=4),
        "list": ChoiceConfig(values=(1, 2, 4)),
        "fixed": ChoiceConfig(values=("a", "b")),
    }
    rng = random.Random(0)
    start = {"lr": 0.1, "steps": 3, "list": 2, "fixed": "a"}
    moved = [explore(start, space, ("lr", "steps", "list"), resample=0.0, rng=rng) for _ in range(60)]
    assert {point["fixed"] for point in moved} == {"a"}
    assert {round(point["lr"], 6) for point in moved} == {0.09, 0.11}  # a fifth less and more lie outside
    assert {point["steps"] for point in moved} == {2, 4}
    assert {point["list"] for point in moved} == {1, 4}
    assert start == {"lr": 0.1, "steps": 3, "list": 2, "fixed": "a"}


def test_exploring_draws_anew_as_often_as_it_is_told() -> None:
    space = {"lr": RangeConfig(kind="uniform", low=0, high=1)}
    drawn = [explore({"lr": 0.5}, space, ("lr",), resample=1.0, rng=random.Random(seed))["lr"] for seed in range(200)]
    assert len({round(value, 9) for value in drawn}) > 190
    halves = [explore({"lr": 0.5}, space, ("lr",), resample=0.5, rng=random.Random(seed))["lr"] for seed in range(400)]
    kept = sum(round(value, 9) in (0.4, 0.6) for value in halves)
    assert 150 < kept < 250
