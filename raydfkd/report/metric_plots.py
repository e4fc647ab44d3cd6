"""The plots that ``metrics.METRICS`` declares for a section, and those of the methods' own numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from raydfkd import metrics
from raydfkd.metrics import Figure, Metric, Plot
from raydfkd.report import figures
from raydfkd.report.loading import Record, RunData, latest, series
from raydfkd.report.pictures import figure_svg
from raydfkd.run_records import by_owner, rates

Curve = tuple[np.ndarray, np.ndarray]
"""Student steps or seconds [n], and values [n]."""

_GIB = 2.0**-30
_OWN_KINDS = ("preparation", "synthesis")
"""Kinds of record that hold a method's own numbers."""


def plots_of(run: RunData, section: str) -> list[str]:
    """A plot for each metric of a section of which there are values."""
    return [plot for metric in metrics.of_section(section) if (plot := _plot(run, metric)) is not None]


def shared_plot(run: RunData, section: str, title: str) -> list[str]:
    """One plot of all metrics of a section, fractions over time, as far as there are values; none without any."""
    found = metrics.of_section(section)
    curves = {m.name: (x, y) for m in found for y, x in [series(run.of_kind(m.kind), m.key, "time_s")] if np.isfinite(y).any()}
    return [_over_time(curves, title, section, percent=True, smooth=True)] if curves else []


def own_plots(run: RunData) -> list[str]:
    """Each loss of the methods, and each figure that the manifest names, with a line for each generator."""
    records = sorted((r for kind in _OWN_KINDS for r in run.of_kind(kind)), key=lambda r: float(r["time_s"]))
    names = {key for r in records for key, v in r.items() if metrics.is_loss(key) and isinstance(v, int | float)}
    plots = []
    for name in sorted(names, key=lambda n: (n != "loss", n)):
        curves = _by_generator(records, name)
        if curves:
            plots.append(_over_time(curves, name, f"own-{name}", smooth=True))
    for number, figure in enumerate(run.figures):
        curves = _curves_of_figure(records, figure)
        if curves:
            plots.append(_over_time(curves, figure.title, f"figure-{number}", percent=figure.percent))
    return plots


def _plot(run: RunData, metric: Metric) -> str | None:
    plot = metric.plot
    assert plot is not None, "of_section gives no other"
    curves = {name: curve for name, curve in _curves(run, metric, plot).items() if np.isfinite(curve[1]).any()}
    if not curves:
        return None
    limit = latest(run.of_kind(metric.kind), plot.limit) if plot.limit else None
    look = {
        "percent": metric.unit == "fraction",
        "log": metric.scale == "log",
        "from_zero": plot.from_zero,
        "smooth": plot.smooth,
        "limit": (plot.limit, float(limit)) if isinstance(limit, int | float) else None,
    }
    title = metric.label + (" per second" if plot.rate else "") + (", GiB" if metric.unit == "bytes" else "")
    name = f"{plot.section}-{metric.kind}-{metric.key}"
    if plot.over == "steps":
        return figure_svg(figures.lines(curves, title, "student steps", **look), name)
    return _over_time(curves, title, name, **look)


def _curves(run: RunData, metric: Metric, plot: Plot) -> dict[str, Curve]:
    """By owner; one student alone, or what is the whole run's, has the metric's name."""
    owners = run.by_owner(metric.kind)
    if plot.rate and metrics.owner_field(metric.kind) != "student":
        owners = {"": run.of_kind(metric.kind)}
    alone = len(owners) == 1 and metrics.owner_field(metric.kind) != "generator_id"
    curves = {}
    for name, records in owners.items():
        values, x = series(records, metric.key, "step" if plot.over == "steps" else "time_s")
        curve = rates(x, values) if plot.rate else (x, values * (_GIB if metric.unit == "bytes" else 1.0))
        curves[metric.name if alone or not name else name] = curve
    return curves


def _curves_of_figure(records: list[Record], figure: Figure) -> dict[str, Curve]:
    return {
        f"{label}, {generator}": curve
        for key, label in figure.curves.items()
        for generator, curve in _by_generator(records, key).items()
    }


def _by_generator(records: list[Record], key: str) -> dict[str, Curve]:
    """Seconds and values of ``key`` for each generator that has any."""
    curves = {}
    for generator, of_one in by_owner(records, "synthesis", ()).items():
        values, seconds = series(of_one, key, "time_s")
        if np.isfinite(values).any():
            curves[generator] = (seconds, values)
    return curves


def _over_time(curves: dict[str, Curve], title: str, name: str, **look: Any) -> str:
    """A plot of curves over seconds [n], in the unit that suits the longest."""
    label = figures.time_axis(max((seconds for seconds, _ in curves.values()), key=lambda seconds: seconds[-1]))[1]
    shown = {curve: (figures.in_unit_of(label, seconds), values) for curve, (seconds, values) in curves.items()}
    return figure_svg(figures.lines(shown, title, label, **look), name)
