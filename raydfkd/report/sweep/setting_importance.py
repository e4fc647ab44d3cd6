"""How much each setting of a sweep mattered, by two simple statistics that a reader can verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST_TRIALS = 3
RANKS = "rank correlation"
GROUPS = "variance between groups"


@dataclass(frozen=True)
class Importance:
    """The importance of one setting.

    Attributes:
        key: dotted.
        share: in [0,1]; 1: the setting alone determines the objective, 0: no association found.
        sign: +1 or -1 if larger values come with larger or smaller objectives, 0 if the values have no order.
        method: ``RANKS`` or ``GROUPS``.
    """

    key: str
    share: float
    sign: int
    method: str


def importances(settings: Sequence[dict[str, Any]], objectives: Sequence[float]) -> list[Importance]:
    """The settings' importance, largest first; empty with fewer than three trials.

    Numbers: |Spearman's rank correlation| with the objective, which detects only monotone effects. Anything else:
    the share of the objective's variance that lies between the groups of equal value (eta squared), which with many groups of
    few trials is large by chance.

    Args:
        settings: of each trial; only keys that all trials have are considered.
        objectives: finite, of each trial.
    """
    if len(settings) < LEAST_TRIALS:
        return []
    values = np.asarray(objectives, dtype=np.float64)
    found = []
    for key in [key for key in settings[0] if all(key in one for one in settings)]:
        column = [one[key] for one in settings]
        if is_ordered(column):
            correlation = _correlation(_ranks(np.asarray(column, dtype=np.float64)), _ranks(values))
            found.append(Importance(key, abs(correlation), int(np.sign(correlation)), RANKS))
        else:
            found.append(Importance(key, _between_groups([repr(value) for value in column], values), 0, GROUPS))
    return sorted(found, key=lambda one: -one.share)


def is_ordered(column: Sequence[Any]) -> bool:
    """Whether all values are numbers (truth values are not)."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in column)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > 0 else 0.0


def _between_groups(labels: list[str], values: np.ndarray) -> float:
    total = float(((values - values.mean()) ** 2).sum())
    if total == 0:
        return 0.0
    groups = [values[np.array([label == one for label in labels])] for one in dict.fromkeys(labels)]
    return float(sum(len(group) * (group.mean() - values.mean()) ** 2 for group in groups)) / total
