"""The plots of a sweep. No pyplot, as in ``figures``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raydfkd.report import style
from raydfkd.report.sweep.setting_importance import Importance, is_ordered
from raydfkd.report.sweep.sweep_words import short_names, value_text
from raydfkd.sweep_dir import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LETTERS = 28
"""Longest line of a y label, in characters."""
WIDE = 20.0
"""A setting whose largest value exceeds its smallest by this factor gets a logarithmic axis."""


class Scale:
    """Positions of a setting's values on an axis from 0 to 1: by their logarithm if their range is wide, by order of
    appearance if they are not numbers."""

    def __init__(self, column: Sequence[Any]) -> None:
        self.ordered = is_ordered(column)
        self._categories = list(dict.fromkeys(map(repr, column)))
        numbers = [float(value) for value in column] if self.ordered else []
        self.logarithmic = self.ordered and min(numbers) > 0 and max(numbers) > WIDE * min(numbers)
        placed = [self._raw(value) for value in column]
        self._low, self._high = min(placed), max(placed)
        self.labels = self._labels(column)

    def at(self, value: Any) -> float:
        return 0.5 if self._high == self._low else (self._raw(value) - self._low) / (self._high - self._low)

    def _raw(self, value: Any) -> float:
        if not self.ordered:
            return float(self._categories.index(repr(value)))
        return float(np.log(value)) if self.logarithmic else float(value)

    def _labels(self, column: Sequence[Any]) -> list[tuple[float, str]]:
        distinct = {value_text(value): self.at(value) for value in column}
        if self.ordered and len(distinct) > 6:
            numbers = sorted(column)
            distinct = {value_text(value): self.at(value) for value in (numbers[0], numbers[-1])}
        return [(at, text) for text, at in distinct.items()]


@style.styled
def parallel_coordinates(trials: Sequence[Trial], label: str) -> Figure:
    """One line per trial through its settings to its objective, coloured by the objective."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    keys = list(trials[0].settings)
    names = short_names(keys)
    objectives = [float(trial.objective or 0.0) for trial in trials]
    scales = [Scale([trial.settings[key] for trial in trials]) for key in keys] + [Scale(objectives)]
    figure = Figure(figsize=(max(5.2, 1.5 * len(scales)), 3.6))
    axes = figure.subplots()
    axes.set_title(f"Settings and {label}")
    shades = colormaps["viridis"]
    for trial, objective in sorted(zip(trials, objectives, strict=True), key=lambda pair: pair[1]):
        points = [scale.at(value) for scale, value in zip(scales, [*trial.settings.values(), objective], strict=True)]
        colour = shades(0.08 + 0.84 * scales[-1].at(objective))
        axes.plot(range(len(points)), points, color=colour, linewidth=1.4, alpha=0.9)
    for number, scale in enumerate(scales):
        axes.axvline(number, color=style.MUTED, linewidth=0.8)
        for at, text in scale.labels:
            side = "bottom" if at > 0.99 else "top" if at < 0.01 else "center"  # clear of the lines, where that is possible
            axes.text(number + 0.03, at, text, fontsize=8, va=side, color=style.INK)
    axes.grid(visible=False)
    axes.set_xticks(range(len(scales)), [*(names[key] for key in keys), "objective"])
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(scales) - 0.55)
    axes.set_ylim(-0.08, 1.08)
    return figure


@style.styled
def importance_bars(found: Sequence[Importance]) -> Figure:
    """One bar per setting, the most important on top, with the direction of its effect."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 1.0 + 0.42 * len(found)))
    axes = figure.subplots()
    axes.set_title("Importance of each setting")
    names = short_names([one.key for one in found])
    at = np.arange(len(found))[::-1]
    axes.barh(at, [one.share for one in found], color=style.BLUE, height=0.62)
    arrows = {1: "larger raises it", -1: "larger lowers it", 0: "no order"}
    for place, one in zip(at, found, strict=True):
        axes.text(one.share + 0.015, place, f"{one.share:.2f}, {arrows[one.sign]}", va="center", fontsize=8, color=style.MUTED)
    axes.set_yticks(at, [names[one.key] for one in found])
    axes.set_xlim(0, 1.35)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.grid(visible=False, axis="y")
    return figure


@style.styled
def learning_curves(trials: Sequence[Trial], best: str | None, label: str) -> Figure:
    """The objective over student steps: the best trial's, the finished ones' and, paler, those that were stopped or failed."""
    figure, axes = _axes("Learning curves", "student steps", label)
    shown: set[str] = set()
    for trial in sorted(trials, key=lambda one: (one.name == best, one.state == "finished")):
        if trial.name == best:
            colour, width, alpha, said = style.VERMILLION, 2.2, 1.0, f"best, {trial.name}"
        elif trial.state == "finished":
            colour, width, alpha, said = style.BLUE, 1.2, 0.7, "finished"
        else:
            colour, width, alpha, said = style.MUTED, 1.0, 0.6, "stopped early"
        marker = "o" if len(trial.steps) < 3 else None
        name = said if said not in shown else None
        axes.plot(
            trial.steps, trial.values, color=colour, linewidth=width, alpha=alpha, label=name, marker=marker, markersize=3
        )
        shown.add(said)
    axes.legend(loc="best")
    return figure


@style.styled
def objective_against(key: str, trials: Sequence[Trial], label: str) -> Figure:
    """One setting and the objective, one point per trial: filled if it finished, hollow if it stopped early."""
    figure, axes = _axes(key, "", label)
    scale = Scale([trial.settings[key] for trial in trials])
    for finished, fill, said in ((True, style.BLUE, "finished"), (False, "none", "stopped early")):
        chosen = [trial for trial in trials if (trial.state == "finished") is finished]
        if not chosen:
            continue
        values = [trial.settings[key] for trial in chosen]
        x = [float(value) for value in values] if scale.ordered else [scale.at(value) for value in values]
        y = [float(trial.objective or 0.0) for trial in chosen]
        axes.scatter(x, y, s=26, facecolors=fill, edgecolors=style.BLUE, linewidths=1.0, label=said)
    if scale.logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(sorted({float(trial.settings[key]) for trial in trials})[:: max(1, len(trials) // 6)])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    elif not scale.ordered:
        axes.set_xticks([at for at, _ in scale.labels], [text for _, text in scale.labels])
        axes.set_xlim(-0.2, 1.2)
    axes.legend(loc="best")
    return figure


def _axes(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.0))
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(textwrap.fill(y_label, MOST_LETTERS))
    return figure, axes
