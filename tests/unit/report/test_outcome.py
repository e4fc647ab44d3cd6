"""Numbers in words."""

from __future__ import annotations

import pytest

from raydfkd.report.result_rows import (
    MISSING,
    format_count,
    format_duration,
    format_percent,
    format_ratio,
    gap_to_teacher,
    outcome_rows,
)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0.00 s"),
        (9.99, "9.99 s"),
        (43.2, "43 s"),
        (59.7, "1 min 00 s"),
        (1325.0, "22 min 05 s"),
        (3599.6, "1 h 00 min"),
        (11220.0, "3 h 07 min"),
        (None, MISSING),
        (float("nan"), MISSING),
    ],
)
def test_durations(seconds: float | None, expected: str) -> None:
    assert format_duration(seconds) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0"),
        (99_999, "99,999"),
        (691_674, "692 k"),
        (999_950, "1.0 M"),
        (12_300_000, "12.3 M"),
        (1.2e9, "1.2 G"),
        (None, MISSING),
    ],
)
def test_counts(number: float | None, expected: str) -> None:
    assert format_count(number) == expected


def test_a_zero_is_a_value_and_none_is_not() -> None:
    assert format_percent(0.0) == "0.00%"
    assert format_percent(None) == MISSING
    rows = dict(outcome_rows({"restarts": 0, "student_wait_fraction": 0.0, "seed": 0, "device": None}))
    assert rows == {"restarts": "0", "student waits": "0.00%", "seed": "0"}


def test_ratio_and_gap() -> None:
    assert format_ratio(175_066, 691_674) == "4.0×"
    assert format_ratio(None, 5) == MISSING
    assert gap_to_teacher({"teacher": {"metric": 0.5}, "student": {"metric_last": 0.525}}) == "+2.50 points"
    assert gap_to_teacher({"teacher": {"metric": 0.5}}) == MISSING
