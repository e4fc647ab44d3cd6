"""Several runs side by side: one HTML file with tables and overlaid curves, and the curves as a picture beside it.

Runs that share a label are one setting with several seeds: a table gives their mean and sample standard deviation, a curve
their mean with a band from the lowest to the highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.errors import RunDirError
from raydfkd.metrics import find
from raydfkd.report import figures, pictures
from raydfkd.report.features.planes import PLANES_CAPTION, Plane, planes_figure, planes_of
from raydfkd.report.figures import Curve
from raydfkd.report.html import render, write_page
from raydfkd.report.loading import RunData, load_run, series
from raydfkd.report.page_parts import Table
from raydfkd.report.result_rows import MISSING, format_duration, metric_label, part, result_text

PAGE = "comparison.html"
PICTURE = "curves.png"
PLANES_PICTURE = "planes.png"

Curves = dict[str, Curve]
Settings = dict[str, list[RunData]]
"""Runs by label."""


def write_comparison(run_paths: Sequence[str | Path], out: str | Path, labels: Sequence[str] | None = None) -> Path:
    """Writes comparison.html into the folder ``out`` and returns its path.

    Beside it goes curves.png if any run was evaluated, and planes.png if networks have two features.

    ``labels`` names the runs in the tables and the curves, one each, the same for seeds of one setting; without them a run's
    manifest name or folder does.

    Raises:
        RunDirError: no run is given, one is not a run, the labels do not match them, or ``out`` cannot be written.
    """
    if not run_paths:
        raise RunDirError("a comparison needs at least one run directory and got none: name the runs to compare")
    if labels is not None and len(labels) != len(run_paths):
        raise RunDirError(f"a comparison of {len(run_paths)} runs got {len(labels)} labels: give one for each run")
    runs = [load_run(path) for path in run_paths]
    settings: Settings = {}
    for label, run in zip(labels if labels is not None else _own_labels(runs), runs, strict=True):
        settings.setdefault(label, []).append(run)
    over_steps, over_time, time_label = _curves(settings)
    teacher = _common_teacher(runs)
    metric = metric_label(runs[0].outcome)
    panels: list[dict[str, Any]] = []
    if over_steps:
        for curves, over, x_label in ((over_steps, "steps", "student steps"), (over_time, "time", time_label)):
            title = f"{metric} over {over} (last student)"
            panels.append({"curves": curves, "title": title[0].upper() + title[1:], "x_label": x_label, "teacher": teacher})
    plots = [pictures.figure_svg(figures.overlay(**panel), f"overlay-{number}") for number, panel in enumerate(panels)]
    planes = _planes(settings)
    drawn = planes_figure(planes, runs[0].class_names(len(planes[0].bias))) if planes else None
    wide = [] if drawn is None else [pictures.figure_svg(drawn, "planes")]
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if panels:
            (folder / PICTURE).write_bytes(pictures.figure_png(figures.side_by_side(panels)))
        if drawn is not None:
            drawn.set_facecolor("white")
            (folder / PLANES_PICTURE).write_bytes(pictures.figure_png(drawn))
    except OSError as error:
        raise RunDirError(f"{folder} cannot be written ({error.strerror}): choose another folder") from error
    page = render(
        "comparison.html.j2",
        count=len(runs),
        plots=plots,
        wide=wide,
        wide_note=PLANES_CAPTION,
        tables=[*_seed_tables(settings, metric), _table(settings, metric)],
        problems=[f"{label}: {problem}" for label, group in settings.items() for run in group for problem in run.problems],
    )
    return write_page(folder / PAGE, page)


def _own_labels(runs: list[RunData]) -> list[str]:
    """Names from the manifest or the folder; equal names get their seed added, or else their number."""
    labels = [str(run.manifest.get("name") or run.path.resolve().name) for run in runs]
    for suffix in (lambda i: f"seed {runs[i].outcome.get('seed')}", lambda i: f"#{i + 1}"):
        twice = {label for label in labels if labels.count(label) > 1}
        labels = [f"{label}, {suffix(i)}" if label in twice else label for i, label in enumerate(labels)]
    return labels


def _curves(settings: Settings) -> tuple[Curves, Curves, str]:
    """The last student's metric over steps and over time, of the settings that have any, and the time axis' label."""
    found = {label: _evaluations(group) for label, group in settings.items()}
    found = {label: values for label, values in found.items() if np.isfinite(values[2]).any()}
    time_label = figures.time_axis(np.concatenate([seconds for _, seconds, _ in found.values()]))[1] if found else ""
    over_steps = {label: Curve.of(steps, metric_RN) for label, (steps, _, metric_RN) in found.items()}
    over_time = {
        label: Curve.of(figures.in_unit_of(time_label, seconds), metric_RN) for label, (_, seconds, metric_RN) in found.items()
    }
    return over_steps, over_time, time_label


def _evaluations(group: list[RunData]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps [N] at which all runs that were evaluated at all were, their mean times [N], and each run's metric [R,N]."""
    columns = [series(run.of_first_student("evaluation"), "metric_last", "step", "time_s") for run in group]
    columns = [column for column in columns if len(column[0])]
    if not columns:
        return np.zeros(0), np.zeros(0), np.zeros((1, 0))
    common = reduce(np.intersect1d, [steps for _, steps, _ in columns])
    # A resumed run may have been evaluated at a step twice: the later evaluation counts.
    newest = [{step: row for row, step in enumerate(steps)} for _, steps, _ in columns]
    rows = [[at[step] for step in common] for at in newest]
    metric_RN = np.stack([metric[row] for (metric, _, _), row in zip(columns, rows, strict=True)])
    seconds = np.mean([seconds[row] for (_, _, seconds), row in zip(columns, rows, strict=True)], axis=0)
    return common, seconds, metric_RN


def _common_teacher(runs: list[RunData]) -> float | None:
    metrics = {part(run.outcome, "teacher", "metric") for run in runs}
    metrics.discard(None)  # an unfinished run does not know it
    return metrics.pop() if len(metrics) == 1 else None


def _planes(settings: Settings) -> list[Plane]:
    """Once the teacher's plane, without the images of any one run, and those of the students of each setting's first run."""
    every = [plane for label, group in settings.items() for plane in planes_of(group[0], label)]
    teachers = [replace(plane, behind=plane.behind[:0]) for plane in every if plane.network == "teacher"]
    return [*teachers[:1], *(plane for plane in every if plane.network != "teacher")]


def _seed_tables(settings: Settings, metric: str) -> list[Table]:
    """Mean and sample standard deviation over the finished runs of each setting; none where no setting has two."""
    finished = {label: [run.outcome for run in group if run.result is not None] for label, group in settings.items()}
    if max(map(len, finished.values())) < 2:
        return []
    rows = []
    for label, outcomes in finished.items():
        spread = [_spread([part(outcome, "student", key) for outcome in outcomes]) for key in _STUDENT_KEYS]
        behind = _spread([_points_behind(outcome) for outcome in outcomes], unit="")
        seconds = [outcome["end_to_end_s"] for outcome in outcomes if outcome.get("end_to_end_s") is not None]
        rows.append((label, str(len(outcomes)), *spread, behind, format_duration(float(np.mean(seconds)) if seconds else None)))
    headers = ("setting", "runs", f"{metric}, last", f"{metric}, EMA", "agreement", "points behind teacher", "end to end")
    return [Table(headers, rows, title="Mean and standard deviation over runs")]


_STUDENT_KEYS = ("metric_last", "metric_ema", "agreement")


def _points_behind(outcome: dict[str, Any]) -> float | None:
    teacher, student = part(outcome, "teacher", "metric"), part(outcome, "student", "metric_last")
    return None if teacher is None or student is None else teacher - student


def _spread(fractions: Sequence[float | None], unit: str = "%") -> str:
    """``97.21 ± 0.34%``; of a single run, only its figure."""
    known = [100 * fraction for fraction in fractions if fraction is not None]
    if not known:
        return MISSING
    deviation = f" ± {np.std(known, ddof=1):.2f}" if len(known) > 1 else ""
    return f"{np.mean(known):.2f}{deviation}{unit}"


def _table(settings: Settings, metric: str) -> Table:
    columns = [find("result", key) for key in _COLUMNS]
    rows: list[tuple[str, ...]] = []
    for label, group in settings.items():
        for run in group:
            outcome = run.outcome
            row = [label if run.result is not None else f"{label} ({run.state})", *(_text(outcome.get(key)) for key in _NAMES)]
            rows.append(tuple(row + [result_text(outcome, column) for column in columns]))
    headers = (column.name.replace("accuracy", metric) for column in columns)
    return Table(("run", *_NAMES, *headers), rows, title="Each run")


def _text(value: Any) -> str:
    return MISSING if value is None else str(value)


_NAMES = ("method", "seed")
_COLUMNS = (
    "student_steps",
    "student.metric_last",
    "student.metric_ema",
    "student.agreement",
    "class_entropy",
    "end_to_end_s",
    "synthesis_s",
    "distillation_s",
    "images_synthesized_per_s",
    "images_distilled_per_s",
)
