"""Several runs side by side: one HTML file with a table and overlaid curves, and the curves as a picture beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.errors import RunDirError
from raydfkd.report import figures, pictures
from raydfkd.report.html import render, write_page
from raydfkd.report.loading import RunData, load_run, series
from raydfkd.report.outcome import MISSING, format_duration, format_percent, format_rate, metric_label, part, rate
from raydfkd.report.page_parts import Table

PAGE = "comparison.html"
PICTURE = "curves.png"

Curves = dict[str, tuple[np.ndarray, np.ndarray]]


def write_comparison(run_paths: Sequence[str | Path], out: str | Path, labels: Sequence[str] | None = None) -> Path:
    """Writes comparison.html and, if any run was evaluated, curves.png into the folder ``out``; returns the HTML file's path.

    ``labels`` names the runs in the table and the curves, one each; without them a run's manifest name or folder does.

    Raises:
        RunDirError: no run is given, one is not a run, the labels do not match them, or ``out`` cannot be written.
    """
    if not run_paths:
        raise RunDirError("a comparison needs at least one run directory and got none: name the runs to compare")
    if labels is not None and (len(labels) != len(run_paths) or len(set(labels)) != len(labels)):
        raise RunDirError(f"a comparison of {len(run_paths)} runs got {len(labels)} labels: give each run its own")
    runs = [load_run(path) for path in run_paths]
    named = dict(zip(labels if labels is not None else _own_labels(runs), runs, strict=True))
    over_steps, over_time, time_label = _curves(named)
    teacher = _common_teacher(runs)
    metric = metric_label(runs[0].outcome)
    panels: list[dict[str, Any]] = []
    if over_steps:
        for curves, over, x_label in ((over_steps, "steps", "student steps"), (over_time, "time", time_label)):
            title = f"{metric} over {over} (last student)"
            panels.append({"curves": curves, "title": title[0].upper() + title[1:], "x_label": x_label, "teacher": teacher})
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if panels:
            (folder / PICTURE).write_bytes(pictures.figure_png(figures.side_by_side(panels)))
    except OSError as error:
        raise RunDirError(f"{folder} cannot be written ({error.strerror}): choose another folder") from error
    page = render(
        "comparison.html.j2",
        count=len(runs),
        plots=[pictures.figure_svg(figures.overlay(**panel), f"overlay-{number}") for number, panel in enumerate(panels)],
        tables=[_table(named, metric)],
        problems=[f"{label}: {problem}" for label, run in named.items() for problem in run.problems],
    )
    return write_page(folder / PAGE, page)


def _own_labels(runs: list[RunData]) -> list[str]:
    """Names by manifest or folder; those that come twice get their seed, or else their number."""
    labels = [str(run.manifest.get("name") or run.path.resolve().name) for run in runs]
    for suffix in (lambda i: f"seed {runs[i].outcome.get('seed')}", lambda i: f"#{i + 1}"):
        twice = {label for label in labels if labels.count(label) > 1}
        labels = [f"{label}, {suffix(i)}" if label in twice else label for i, label in enumerate(labels)]
    return labels


def _curves(named: dict[str, RunData]) -> tuple[Curves, Curves, str]:
    """The last student's metric over steps and over time, of the runs that have any, and the time axis' label."""
    over_steps: Curves = {}
    over_time: Curves = {}
    for label, run in named.items():
        metric, steps, seconds = series(run.of_first_student("evaluation"), "metric_last", "step", "time_s")
        if np.isfinite(metric).any():
            over_steps[label], over_time[label] = (steps, metric), (seconds, metric)
    time_label = figures.time_axis(np.concatenate([x for x, _ in over_time.values()]))[1] if over_time else ""
    in_unit = {label: (figures.in_unit_of(time_label, x), y) for label, (x, y) in over_time.items()}
    return over_steps, in_unit, time_label


def _common_teacher(runs: list[RunData]) -> float | None:
    metrics = {part(run.outcome, "teacher", "metric") for run in runs}
    metrics.discard(None)  # an unfinished run does not know it
    return metrics.pop() if len(metrics) == 1 else None


def _table(named: dict[str, RunData], metric: str) -> Table:
    rows: list[tuple[str, ...]] = []
    for label, run in named.items():
        outcome = run.outcome
        row = [label if run.result is not None else f"{label} ({run.state})"]
        rows.append(tuple(row + [MISSING if (cell := cells(outcome)) is None else cell for _, cells in _COLUMNS]))
    return Table(("run", *(header.replace("accuracy", metric) for header, _ in _COLUMNS)), rows)


_COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str | None]], ...] = (
    ("method", lambda o: o.get("method")),
    ("seed", lambda o: None if o.get("seed") is None else str(o["seed"])),
    ("steps", lambda o: None if o.get("student_steps") is None else f"{o['student_steps']:,}"),
    ("accuracy, last", lambda o: format_percent(part(o, "student", "metric_last"))),
    ("accuracy, EMA", lambda o: format_percent(part(o, "student", "metric_ema"))),
    ("agreement", lambda o: format_percent(part(o, "student", "agreement"))),
    ("class entropy", lambda o: None if o.get("class_entropy") is None else f"{o['class_entropy']:.3f}"),
    ("end to end", lambda o: format_duration(o.get("end_to_end_s"))),
    ("synthesis", lambda o: format_duration(o.get("synthesis_s"))),
    ("distillation", lambda o: format_duration(o.get("distillation_s"))),
    ("images/s made", lambda o: format_rate(rate(o, "images_synthesized"))),
    ("images/s eaten", lambda o: format_rate(rate(o, "images_distilled"))),
)
