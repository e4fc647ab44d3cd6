"""The timeline of generators, steps and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raydfkd.report.loading import load_run
from raydfkd.report.page_parts import LeftOut
from raydfkd.report.timeline import rates, timeline
from raydfkd.testing.fake_run import write_fake_run


def test_rates_are_amounts_over_equal_spans() -> None:
    seconds = np.arange(0.0, 101.0)
    amounts = np.where(seconds <= 50, 2.0, 8.0)
    at, per_s = rates(seconds, amounts)
    assert len(at) == 25
    assert per_s[0] == pytest.approx(2.0, rel=0.4)
    assert per_s[-1] == pytest.approx(8.0, rel=0.4)
    assert (per_s * np.diff(at, prepend=0.0)).sum() == pytest.approx(amounts[1:].sum()), "nothing is lost between spans"


def test_rates_of_too_little_are_empty() -> None:
    for seconds in (np.empty(0), np.array([3.0]), np.array([3.0, 3.0])):
        at, per_s = rates(seconds, np.ones(len(seconds)))
        assert len(at) == len(per_s) == 0


def test_a_run_of_few_records_has_one_span() -> None:
    at, per_s = rates(np.array([10.0, 15.0, 20.0]), np.array([5.0, 30.0, 30.0]))
    assert at.tolist() == [20.0]
    assert per_s.tolist() == [6.0]


def test_a_live_scaled_run_has_its_timeline(tmp_path: Path) -> None:
    section = timeline(load_run(write_fake_run(tmp_path / "run")))
    [plot] = section.wide
    for title in ("Generators that run", "Student steps/s", "Images/s made", "time in minutes"):
        assert title in plot


def test_a_run_without_generators_says_why_it_has_none(tmp_path: Path) -> None:
    run = load_run(write_fake_run(tmp_path / "run", done=0.0, state="running"))
    run.records.pop("generators", None)
    with pytest.raises(LeftOut, match="no records of generators"):
        timeline(run)
