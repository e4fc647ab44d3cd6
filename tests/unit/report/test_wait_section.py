"""Shares of time waited, by student and for the generators together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydfkd import metrics
from raydfkd.metrics import Metric, Plot
from raydfkd.report import figures, wait_section
from raydfkd.report.loading import RunData, load_run
from raydfkd.report.page_parts import LeftOut
from raydfkd.report.wait_section import waits
from raydfkd.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunData:
    made = RunDir.create(tmp_path / "run")
    made.update_manifest(state="running")
    return load_run(made.path)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, np.ndarray]]:
    """The shares of every plot, by its title."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(figures, "stacked_shares", lambda x, shares, colours, title, label: seen.setdefault(title, shares))
    monkeypatch.setattr(wait_section, "figure_svg", lambda figure, name: name)
    return seen


def throughput(time_s: float, step: int, **waited: float) -> dict[str, Any]:
    return {"kind": "throughput", "time_s": time_s, "step": step, **{f"student_wait_{k}_s": v for k, v in waited.items()}}


def test_a_students_waits_are_shares_of_the_time_since_its_last_record(run: RunData, drawn: dict[str, Any]) -> None:
    run.records["throughput"] = [throughput(8.0, 4, data=6.0), throughput(10.0, 8, data=1.0), throughput(14.0, 12, limiter=1.0)]
    section = waits(run)
    shares = drawn["The student: share of time spent waiting"]
    np.testing.assert_allclose(shares["waiting for data, 16.7% of all time"], [0.5, 0.0])
    np.testing.assert_allclose(shares["waiting for the rate limiter, 16.7% of all time"], [0.0, 0.25])
    assert section.notes == ["The student waited 6.00 s before its first recorded step; the plot leaves that out."]


def test_generators_waits_are_shares_of_their_batches_waits_included(run: RunData, drawn: dict[str, Any]) -> None:
    batch = {"kind": "synthesis", "generator_id": "a-0", "step": 0, "seconds": 3.0, "generator_wait_weights_s": 1.0}
    run.records["synthesis"] = [{**batch, "time_s": 4.0 * n} for n in range(1, 9)]
    assert waits(run).notes == []
    np.testing.assert_allclose(
        drawn["Generators: share of time spent waiting"]["waiting for student weights, 25.0% of all time"], [0.25] * 4
    )


def test_waits_that_hardly_are_any_get_a_sentence(run: RunData, drawn: dict[str, Any]) -> None:
    run.records["throughput"] = [throughput(10.0, 4, data=0.0), throughput(20.0, 8, data=0.001)]
    assert waits(run).notes == ["The student waited less than 0.1% of the time."]
    assert drawn == {}


def test_records_of_one_time_or_without_waits_are_left_out(run: RunData) -> None:
    run.records["throughput"] = [throughput(5.0, 4, data=1.0), throughput(5.0, 8, data=1.0)]
    run.records["synthesis"] = [{"kind": "synthesis", "generator_id": "a-0", "time_s": 5.0, "step": 0, "seconds": 0.0}] * 3
    with pytest.raises(LeftOut, match="too few records with waits"):
        waits(run)


def test_a_declared_wait_is_in_the_plot(run: RunData, drawn: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    added = Metric("throughput", "student_wait_disk_s", "waiting for the disk", "Seconds.", "s", plot=Plot("waits"))
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, added))
    run.records["throughput"] = [throughput(2.0, 4), throughput(4.0, 8, disk=1.0)]
    waits(run)
    assert list(drawn["The student: share of time spent waiting"]) == ["waiting for the disk, 50.0% of all time"]
