"""A report of several students: a row and a line for each; the first one stands for the run where one must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydfkd.report import figures, metric_plots, training_sections
from raydfkd.report.html import write_report
from raydfkd.report.loading import RunData, load_run
from raydfkd.run_dir import MetricsWriter, RunDir

CONFIG = """
sources: {inversion: {method: ssdkd}}
students: {small: {model: small_cnn_16}, tiny: {model: small_cnn_8}}
schedule: {rounds: 10, student_steps_per_round: 10}
"""
FIGURES = {"params": 100, "agreement": 0.5, "objective": "kl", "images_distilled": 800, "student_steps": 100}
STUDENTS = {
    "small": {"model": "small_cnn_16", "metric_last": 0.9, "metric_ema": 0.91, **FIGURES},
    "tiny": {"model": "small_cnn_8", "metric_last": 0.7, "metric_ema": 0.71, **FIGURES},
}


def write_run(path: Path, finished: bool = True) -> Path:
    run = RunDir.create(path)
    run.config_path.write_text(CONFIG)
    run.update_manifest(state="finished" if finished else "running")
    writer = MetricsWriter(run)
    for step in range(10, 110, 10):
        for number, name in enumerate(STUDENTS):
            share = step / 100
            figures = {"kd_loss": 1 / step + number, "lr": 0.1, "step_s": 0.5, "agreement": share}
            writer.write("distillation", step, student=name, **figures)
            flow = {"images_distilled": 8 * step, "distilled_per_s": 50.0, "rss_bytes": 1 << 30}
            writer.write("throughput", step, student=name, **flow, student_wait_limiter_s=0.2 * (1 + number))
            writer.write("evaluation", step, student=name, metric_last=0.9 * share - 0.2 * number, metric_ema=0.5, split="test")
    writer.close()
    if finished:
        student = {"model": "small_cnn_16", "metric_last": 0.9, "metric_ema": 0.91, "agreement": 0.5, "params": 100}
        run.write_result({"method": "ssdkd", "metric_name": "accuracy", "student": student, "students": STUDENTS})
    return run.path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The curves of every plot, by its title."""
    seen: dict[str, Any] = {}

    def figure_svg(figure: Any, name: str) -> str:
        return name

    for name in ("lines", "overlay"):
        monkeypatch.setattr(figures, name, lambda curves, title, *rest, **settings: seen.__setitem__(title, curves))
    for module in (metric_plots, training_sections):
        monkeypatch.setattr(module, "figure_svg", figure_svg)
    return seen


def test_every_figure_has_a_line_a_student(tmp_path: Path, drawn: dict[str, Any]) -> None:
    run = load_run(write_run(tmp_path / "run"))
    training_sections.metric(run)
    training_sections.distillation(run)
    training_sections.throughput(run)
    curves = {title: list(of_one) for title, of_one in drawn.items()}
    both = ["small", "tiny"]
    assert curves["Accuracy over steps (last weights of each student)"] == both
    assert curves["Distillation loss"] == curves["Images distilled per second"] == curves["Resident memory, GiB"] == both
    tiny = drawn["Accuracy over steps (last weights of each student)"]["tiny"]
    np.testing.assert_allclose(tiny.mean, 0.9 * tiny.x / 100 - 0.2)


def test_the_outcome_has_a_row_a_student_and_each_waits_for_itself(tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    assert "small_cnn_16 and small_cnn_8" in text
    for name, model, last in (("small", "small_cnn_16", "90.00%"), ("tiny", "small_cnn_8", "70.00%")):
        assert f"<tr><td>{name}</td><td>{model}</td><td>kl</td><td>{last}</td>" in text
    assert "Figures of a single student are those of the first, small." in text


def test_a_run_that_goes_on_tells_of_each_student_so_far(tmp_path: Path) -> None:
    outcome = load_run(write_run(tmp_path / "run", finished=False)).outcome
    assert [student["model"] for student in outcome["students"].values()] == ["small_cnn_16", "small_cnn_8"]
    assert outcome["student"]["metric_last"] == pytest.approx(0.9)
    assert outcome["students"]["tiny"]["metric_last"] == pytest.approx(0.7)
    assert outcome["images_distilled"] == 2 * 800
    assert outcome["distillation_s"] == pytest.approx(2 * 100 * 0.5)


def test_records_without_a_students_name_are_the_first_ones(tmp_path: Path) -> None:
    run: RunData = load_run(write_run(tmp_path / "run"))
    run.records["evaluation"].append({"kind": "evaluation", "step": 100, "time_s": 9.0, "metric_last": 0.1})
    assert {name: len(records) for name, records in run.by_owner("evaluation").items()} == {"small": 11, "tiny": 10}
    assert run.of_first_student("evaluation")[-1]["metric_last"] == 0.1
    assert json.dumps(run.by_owner("held_out")) == "{}"
