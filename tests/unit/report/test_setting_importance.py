"""Importance of settings against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from raydfkd.report.sweep.setting_importance import GROUPS, RANKS, importances


def test_a_setting_that_orders_the_trials_has_all_importance_and_its_sign() -> None:
    settings = [{"up": x, "down": -(x**3), "none": 1.0} for x in (1.0, 2.0, 4.0, 9.0)]
    up, down, none = importances(settings, [0.1, 0.2, 0.3, 0.9])
    assert [(one.key, one.share, one.sign, one.method) for one in (up, down, none)] == [
        ("up", pytest.approx(1), 1, RANKS),
        ("down", pytest.approx(1), -1, RANKS),
        ("none", 0.0, 0, RANKS),
    ]


def test_ranks_agree_with_spearman_s_formula() -> None:
    """Without ties rho = 1 - 6 sum d^2 / (n (n^2 - 1))."""
    x, y = [3, 1, 4, 2, 5], [0.2, 0.1, 0.9, 0.8, 0.3]
    ranks = (np.argsort(np.argsort(x)) + 1) - (np.argsort(np.argsort(y)) + 1)
    expected = 1 - 6 * (ranks**2).sum() / (5 * 24)
    (found,) = importances([{"k": value} for value in x], y)
    assert found.share == pytest.approx(expected)
    assert found.sign == 1


def test_ties_share_their_mean_rank() -> None:
    """Ranks 1.5 1.5 3.5 3.5 against 1 2 3 4: correlation 2 / sqrt(5)."""
    (found,) = importances([{"k": value} for value in (1, 1, 2, 2)], [1, 2, 3, 4])
    assert found.share == pytest.approx(2 / 5**0.5)


def test_groups_explain_the_variance_between_their_means() -> None:
    """Means 1 and 3 around 2, each group +-0.5: between 4, within 1, share 4/5."""
    settings = [{"kind": name} for name in ("a", "a", "b", "b")]
    (found,) = importances(settings, [0.5, 1.5, 2.5, 3.5])
    assert (found.share, found.sign, found.method) == (pytest.approx(0.8), 0, GROUPS)


def test_truth_values_and_mixed_values_are_groups() -> None:
    found = importances([{"flag": True, "mixed": None}, {"flag": False, "mixed": 1}, {"flag": True, "mixed": 2}], [1, 0, 1])
    assert {one.key: one.method for one in found} == {"flag": GROUPS, "mixed": GROUPS}
    assert found[0].share == pytest.approx(1)


def test_two_trials_say_nothing_and_equal_objectives_give_none_importance() -> None:
    assert importances([{"k": 1}, {"k": 2}], [0, 1]) == []
    found = importances([{"k": 1, "c": "x"}, {"k": 2, "c": "y"}, {"k": 3, "c": "y"}], [0.5, 0.5, 0.5])
    assert [one.share for one in found] == [0.0, 0.0]
