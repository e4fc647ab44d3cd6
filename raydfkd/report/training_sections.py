"""The sections that show how the run went: the students' metric, losses and throughput."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raydfkd.report import figures
from raydfkd.report.loading import RunData, latest, series
from raydfkd.report.metric_plots import own_plots, plots_of
from raydfkd.report.page_parts import LeftOut, Section
from raydfkd.report.pictures import figure_svg
from raydfkd.report.result_rows import metric_label, part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEASURED = ("step", "metric_last", "metric_ema", "time_s")
_SMOOTHED = "Pale lines are the recorded values, strong lines their running mean."


def metric(run: RunData) -> Section:
    found = {name: series(of_one, *_MEASURED) for name, of_one in run.by_owner("evaluation").items()}
    found = {name: curves for name, curves in found.items() if np.isfinite(np.concatenate(curves[1:3])).any()}
    if not found:
        raise LeftOut("there are no evaluation records: the run has no evaluation data, or has not evaluated yet")
    teacher, name = part(run.outcome, "teacher", "metric"), metric_label(run.outcome)
    _, time_label = figures.time_axis(max((seconds for *_, seconds in found.values()), key=lambda seconds: seconds[-1]))
    plots = [
        figure_svg(_metric_figure(found, 3, time_label, teacher, name), "metric-time"),
        figure_svg(_metric_figure(found, 0, "student steps", teacher, name), "metric-steps"),
    ]
    split = latest(run.of_kind("evaluation"), "split")
    lead = f"Measured on {split}." if split else ""
    notes = [] if teacher is not None else [f"The teacher's own {name} is not recorded, so it has no line."]
    return Section(lead=lead, plots=plots, notes=notes)


def _metric_figure(found: dict[str, list[np.ndarray]], column: int, x_label: str, teacher: float | None, metric: str) -> Figure:
    """With one student, its last and its averaged weights; with several, one line each for their last weights."""
    over = {
        name: curves[column] if column == 0 else figures.in_unit_of(x_label, curves[column]) for name, curves in found.items()
    }
    if len(found) == 1:
        [(_, last, ema, _)] = found.values()
        return figures.metric_curve(next(iter(over.values())), x_label, last, ema, teacher, metric)
    title = f"{metric} over {'steps' if column == 0 else 'time'} (last weights of each student)"
    curves = {name: figures.Curve.of(over[name], last[None]) for name, (_, last, _, _) in found.items()}
    return figures.overlay(curves, title[0].upper() + title[1:], x_label, teacher)


def distillation(run: RunData) -> Section:
    plots = plots_of(run, "distillation")
    if not plots:
        raise LeftOut("there are no distillation records yet")
    several = len(run.by_owner("distillation")) > 1
    return Section(lead=f"One line per student. {_SMOOTHED}" if several else _SMOOTHED, plots=plots)


def synthesis(run: RunData) -> Section:
    if not run.of_kind("synthesis") and not run.of_kind("preparation"):
        raise LeftOut("there are no synthesis records yet")
    return Section(lead=f"One line per generator. {_SMOOTHED}", plots=[*own_plots(run), *plots_of(run, "synthesis")])


def throughput(run: RunData) -> Section:
    plots = plots_of(run, "throughput")
    if not plots:
        raise LeftOut("there are no throughput or replay records yet")
    return Section(plots=plots)
