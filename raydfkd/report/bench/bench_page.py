"""The page of a bench as a single HTML file, from its result.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raydfkd.report import style
from raydfkd.report.bench import bench_words
from raydfkd.report.figures import Curve, draw_overlay, in_unit_of, label_axes, time_axis
from raydfkd.report.html import KeyFigure, render, write_page
from raydfkd.report.page_parts import Section, Table
from raydfkd.report.pictures import figure_svg
from raydfkd.report.result_rows import format_percent
from raydfkd.run_dir import RunDir

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "bench.html"


def is_bench(path: str | Path) -> bool:
    """Whether a folder holds a bench."""
    run = RunDir(Path(path))
    return run.manifest_path.is_file() and run.manifest().get("kind") == "bench"


def write_bench_page(path: str | Path) -> Path:
    """Renders the bench at ``path`` as its bench.html, and returns that file's path.

    Raises:
        RunDirError: there is no result, or the page cannot be written there.
    """
    folder = Path(path)
    outcome = RunDir(folder).result()
    page = render(
        "sectioned.html.j2",
        verb="bench",
        name=folder.resolve().name,
        state=str(outcome["state"]),
        title=f"{len(bench_words.ran(outcome))} methods, {bench_words.budget_text(outcome['budget'])} each",
        facts=_facts(outcome),
        measured_on=outcome["measured_on"],
        headline=_headline(outcome),
        sections=_sections(outcome),
    )
    return write_page(folder / PAGE, page)


def _facts(outcome: Mapping[str, Any]) -> list[str]:
    teacher = outcome["teacher_metric"]
    known = "" if teacher is None else f", {format_percent(teacher)}"
    return [f"teacher {outcome['teacher']['model']}{known}", f"student {outcome['student']}", f"seed {outcome['seed']}"]


def _headline(outcome: Mapping[str, Any]) -> list[KeyFigure]:
    label = str(outcome["metric_label"])
    figures = [
        KeyFigure(f"{label} after {budget}", figure, method) for budget, method, figure in bench_words.leader_lines(outcome)
    ]
    if figures:
        last = figures.pop()
        figures.append(KeyFigure(last.label, last.value, last.detail, "last"))
    return figures


def _sections(outcome: Mapping[str, Any]) -> list[tuple[str, str, Section]]:
    methods = bench_words.ran(outcome)
    label, teacher = str(outcome["metric_label"]), outcome["teacher_metric"]
    rows = [bench_words.text_row(method, teacher) for method in methods]
    lead = (
        f"Best first, by the {label} of the student's last weights; average is that of their moving average. Trained is "
        "wall-clock time without building the networks and measuring the student. Each folder in methods/ is a run directory."
    )
    sections = [("outcome", "Outcome", Section(lead=lead, tables=[Table(bench_words.HEADERS, rows)] if rows else []))]
    measured = [method for method in methods if method["curve"]]
    if measured:
        drawn = figure_svg(curves_figure(measured, label, teacher), "curves")
        note = "A cross marks the end of a method that collapsed, failed, or was cut off before its schedule's end."
        sections.append(
            ("curves", f"{label.capitalize()} against time and against images", Section(wide=[drawn], notes=[note]))
        )
    if told := bench_words.reasons(outcome):
        sections.append(("ends", "What did not run to its end", Section(tables=[Table(("method", "end", "why"), told)])))
    if costs := bench_words.cost_rows(methods):
        lead = "Class entropy is that of the teacher's predictions on the newest batches, relative to equal shares: sets that "
        lead += "distil well are above 0.9."
        sections.append(("costs", "Costs and settings", Section(lead=lead, tables=[Table(bench_words.COST_HEADERS, costs)])))
    sections.append(("rule", "The rule for all settings", Section(lead=str(outcome["rule"]))))
    return sections


@style.styled
def curves_figure(methods: Sequence[Mapping[str, Any]], label: str, teacher: float | None) -> Figure:
    """Every method's last student over time and over the images that it saw, with one legend."""
    from matplotlib.figure import Figure

    seconds = np.array([point["trained_s"] for method in methods for point in method["curve"]])
    time_label = time_axis(seconds)[1]
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    over_time, over_images = figure.subplots(1, 2, sharey=True)
    panels = ((over_time, "trained_s", time_label, "time"), (over_images, "student_images", "student images", "images"))
    for axes, along, x_label, over in panels:
        label_axes(axes, f"{label} over {over}".capitalize(), x_label)
        curves = {method["method"]: _curve(method["curve"], along, time_label) for method in methods}
        draw_overlay(axes, curves, teacher)
        for line, method in zip(axes.get_lines(), methods, strict=False):
            if method["end"] in ("collapsed", "failed", "budget"):
                x, y = line.get_data()
                axes.plot(x[-1:], y[-1:], marker="x", markersize=7, color=line.get_color(), linestyle="none")
        axes.set_xlim(left=0)
    handles, names = over_time.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside center right")
    return figure


def _curve(points: Sequence[Mapping[str, float]], along: str, time_label: str) -> Curve:
    x = np.array([point[along] for point in points], dtype=np.float64)
    last = np.array([[point["last"] for point in points]], dtype=np.float64)
    return Curve.of(in_unit_of(time_label, x) if along == "trained_s" else x, last)
