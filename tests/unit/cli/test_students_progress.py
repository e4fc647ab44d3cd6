"""Progress and status of several students: each is shown, and the run is as far as its slowest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raydfkd.cli.live_state import RunStatus
from raydfkd.cli.progress_state import ProgressState, plain_line, table_rows
from raydfkd.run_dir import MetricsWriter, RunDir


def flow(student: str, images: int, per_s: float, waited_s: float) -> dict[str, Any]:
    return {
        "student": student,
        "images_distilled": images,
        "distilled_per_s": per_s,
        "student_wait_limiter_s": waited_s,
    }


RECORDS: list[tuple[str, float, int, dict[str, Any]]] = [
    ("throughput", 10.0, 20, flow("a", 640, 64.0, 1.0)),
    ("throughput", 10.0, 10, flow("b", 80, 8.0, 4.0)),
    ("distillation", 10.0, 10, {"student": "b", "kd_loss": 3.0}),
    ("throughput", 20.0, 40, flow("a", 1280, 64.0, 1.0)),
    ("distillation", 20.0, 40, {"student": "a", "kd_loss": 1.5}),
    ("evaluation", 20.0, 40, {"student": "a", "metric_last": 0.5, "metric_ema": 0.6}),
    ("evaluation", 21.0, 20, {"student": "b", "metric_last": 0.25, "metric_ema": 0.3}),
]


def state() -> ProgressState:
    progress = ProgressState(total_steps=100)
    for kind, time_s, step, values in RECORDS:
        progress.take({"kind": kind, "time_s": time_s, "step": step, **values})
    return progress


def test_a_run_is_as_far_as_its_slowest_student() -> None:
    assert state().step == 20


def test_each_students_figures_are_shown_with_its_name() -> None:
    rows = dict(table_rows(state()))
    assert rows["losses"] == "a kd_loss 1.5 b kd_loss 3"
    assert rows["accuracy"] == "a last 50.00% EMA 60.00%, b last 25.00% EMA 30.00%"
    assert rows["images/s"].endswith("72 distilled")
    assert "a kd_loss 1.5 b kd_loss 3" in plain_line(state())


def test_of_the_waits_those_of_the_student_that_waits_most_are_shown() -> None:
    """b waited 4 of its 10 seconds, a 1 of its last 10."""
    assert state().wait_shares["student_wait_limiter"] == 0.4


def test_status_lists_the_students(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.config_path.write_text("schedule: {rounds: 10, student_steps_per_round: 10}\nstudents: {a: {}, b: {}, c: {}}\n")
    run.update_manifest(state="running")
    writer = MetricsWriter(run)
    for kind, _, step, values in RECORDS:
        writer.write(kind, step, **values)
    writer.close()
    status = RunStatus(run)
    status.refresh()
    told = status.as_json()
    assert (told["images_distilled"], told["images_distilled_per_s"], told["metric_last"]) == (1360, 72.0, 0.5)
    nothing = dict.fromkeys(("images_distilled", "images_distilled_per_s", "kd_loss", "metric_last", "metric_ema"))
    assert told["students"] == [
        {"name": "a", "step": 40, "images_distilled": 1280, "images_distilled_per_s": 64.0, "kd_loss": 1.5, "metric_last": 0.5,
         "metric_ema": 0.6},
        {"name": "b", "step": 10, "images_distilled": 80, "images_distilled_per_s": 8.0, "kd_loss": 3.0, "metric_last": 0.25,
         "metric_ema": 0.3},
        {"name": "c", "step": 0, **nothing},
    ]  # fmt: skip
    rows = dict(status.rows())
    assert rows["student a"] == "step 40, kd_loss 1.5, 64 images/s"
    assert rows["student c"] == "step 0, kd_loss –, – images/s"
