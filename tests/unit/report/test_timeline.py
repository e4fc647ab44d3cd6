"""The timeline of generators, steps and images."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydfkd.report.loading import load_run
from raydfkd.report.page_parts import LeftOut
from raydfkd.report.timeline import timeline
from raydfkd.testing.fake_run import write_fake_run


def test_a_live_scaled_run_has_its_timeline(tmp_path: Path) -> None:
    section = timeline(load_run(write_fake_run(tmp_path / "run")))
    [plot] = section.wide
    for title in ("Generators running", "Student steps per second", "Images synthesized per second", "time in minutes"):
        assert title in plot


def test_a_run_without_generators_says_why_it_has_none(tmp_path: Path) -> None:
    run = load_run(write_fake_run(tmp_path / "run", done=0.0, state="running"))
    run.records.pop("generators", None)
    with pytest.raises(LeftOut, match="no records of generators"):
        timeline(run)
