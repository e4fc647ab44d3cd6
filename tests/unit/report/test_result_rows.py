"""Figures of a result in words."""

from __future__ import annotations

import pytest

from raydfkd import metrics
from raydfkd.metrics import Metric
from raydfkd.report.result_rows import (
    MISSING,
    format_count,
    format_duration,
    format_percent,
    outcome_rows,
    student_headers,
    student_rows,
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


def test_what_follows_from_other_values_is_computed_where_they_are_known() -> None:
    outcome = {
        "teacher": {"metric": 0.5, "params": 691_674},
        "student": {"metric_last": 0.525, "params": 175_066},
        "end_to_end_s": 20.0,
        "images_synthesized": 1000,
        "images_distilled": 100_000,
    }
    rows = dict(outcome_rows(outcome))
    assert (rows["times smaller"], rows["last student against teacher"]) == ("4.0×", "+2.50 points")
    assert (rows["images/s synthesized"], rows["images/s distilled"]) == ("50", "5,000")
    known = dict(outcome_rows({"teacher": {"metric": 0.5, "params": 5}, "images_synthesized": 3}))
    assert set(known) == {"teacher accuracy", "teacher parameters", "images synthesized"}


def test_the_figure_of_merit_has_its_own_name() -> None:
    outcome = {"metric_label": "mIoU", "student": {"metric_last": 0.25}, "students": {"a": {"metric_last": 0.25}}}
    assert dict(outcome_rows(outcome)) == {"student mIoU, last": "25.00%"}
    assert dict(zip(student_headers(outcome), student_rows(outcome)[0], strict=True)) == {
        "student": "a", "model": MISSING, "objective": MISSING, "mIoU, last": "25.00%", "mIoU, EMA": MISSING,
        "agreement": MISSING, "parameters": MISSING, "images distilled": MISSING,
    }  # fmt: skip


def test_a_metric_added_to_the_result_has_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    added = Metric("result", "student.calibration", "calibration error", "Expected calibration error.", "fraction")
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, added))
    assert ("calibration error", "12.50%") in outcome_rows({"student": {"calibration": 0.125}})
