"""A sweep watched: plain lines off a terminal, a table on one, and the table of the outcome."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from raydfkd.cli.sweep_progress import SweepProgress, outcome_lines


def watched(terminal: bool) -> tuple[SweepProgress, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    return SweepProgress(console=console, clock=lambda: 12.0), out


def tell(progress: SweepProgress) -> None:
    progress.begin(3, 2)
    progress.update("00000", state="running", settings={"students.small.optimizer.lr": 0.1})
    progress.update("00000", step=120, objective=0.5)
    progress.update("00001", state="running", settings={"students.small.optimizer.lr": 0.2})
    progress.update("00001", state="failed", error="ValueError: no [luck]")
    progress.update("00000", state="stopped")


def test_plain_lines_tell_each_event_once() -> None:
    progress, out = watched(terminal=False)
    with progress:
        progress.stage("starting Ray")
        tell(progress)
    assert out.getvalue().splitlines() == [
        "starting Ray",
        "3 trials, 2 at once",
        "[0.00 s] trial 00000 running with lr=0.1 | 0 of 3 ended, 1 running",
        "[0.00 s] trial 00000 step 120, objective 0.5 | 0 of 3 ended, 1 running",
        "[0.00 s] trial 00001 running with lr=0.2 | 0 of 3 ended, 2 running",
        "[0.00 s] trial 00001 failed: ValueError: no [luck] | 1 of 3 ended, 1 running, 1 failed",
        "[0.00 s] trial 00000 stopped at step 120, objective 0.5 | 2 of 3 ended, 0 running, 1 failed",
    ]


def test_a_terminal_shows_a_table_of_the_trials() -> None:
    progress, out = watched(terminal=True)
    with progress:
        tell(progress)
    shown = out.getvalue()
    for text in ("raydfkd sweep", "00000", "00001", "stopped", "failed", "lr=0.1", "2 of 3 ended"):
        assert text in shown


def result(**values: Any) -> dict[str, Any]:
    trial = {"state": "finished", "student_steps": 1200, "time_s": 61.0, "error": None}
    return {
        "objective": {"mode": "max", "label": "agreement"},
        "measured_on": "held-out images",
        "best": "00001",
        "best_objective": 0.9,
        "best_settings": {"a.lr": 0.2},
        "trials": [
            {**trial, "name": "00000", "objective": 0.8, "settings": {"a.lr": 0.1}},
            {**trial, "name": "00001", "objective": 0.9, "settings": {"a.lr": 0.2}},
            {**trial, "name": "00002", "state": "failed", "objective": None, "settings": {"a.lr": 9}, "error": "it broke"},
        ],
        **values,
    }


def test_the_outcome_lists_the_best_first_and_says_what_was_measured() -> None:
    lines = outcome_lines(result())
    assert [line.split()[0] for line in lines[2:5]] == ["00001", "00000", "00002"]
    assert "(it broke)" in lines[4]
    assert lines[-2:] == ["objective: agreement, on held-out images", "best trial: 00001, 0.9 with lr=0.2"]


def test_a_divergence_is_best_where_it_is_smallest() -> None:
    lines = outcome_lines(result(objective={"mode": "min", "label": "KL"}))
    assert [line.split()[0] for line in lines[2:5]] == ["00000", "00001", "00002"]


def test_a_sweep_without_measurements_has_no_best() -> None:
    assert outcome_lines(result(best=None))[-1] == "best trial: none, no trial was measured"
