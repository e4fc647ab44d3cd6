"""Generators running, student steps per second and images synthesized per second, on one time axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raydfkd.metrics import find
from raydfkd.report import style
from raydfkd.report.figures import time_axis
from raydfkd.report.loading import RunData, series
from raydfkd.report.page_parts import LeftOut, Section
from raydfkd.report.pictures import figure_svg
from raydfkd.run_records import rates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE_INCHES = (8.0, 4.6)

_TITLES = (
    find("generators", "running").label,
    f"{find('throughput', 'step').label} per second",
    f"{find('synthesis', 'num_images').label} per second",
)

Curve = tuple[np.ndarray, np.ndarray]
"""Seconds [n] and values [n]."""


def timeline(run: RunData) -> Section:
    records = run.of_kind("generators")
    if not records:
        raise LeftOut("there are no records of generators: the run was a local one, or has none yet")
    running = {}
    for source, of_one in run.by_owner("generators").items():
        counts, seconds = series(of_one, "running", "time_s")
        if len(seconds):
            running[source] = (seconds, counts)
    stepped = {}
    for student, of_one in run.by_owner("throughput").items():
        steps, stepped_at = series(of_one, "step", "time_s")
        stepped[student] = rates(stepped_at, np.diff(steps, prepend=0.0))
    images, synthesized_at = series(run.of_kind("synthesis"), "num_images", "time_s")
    figure = _figure(running, stepped, rates(synthesized_at, images), run.elapsed_s)
    return Section(
        lead="The pace of students and generators as the number of generators changed. The events say why it changed.",
        wide=[figure_svg(figure, "timeline")],
    )


@style.styled
def _figure(running: dict[str, Curve], steps: dict[str, Curve], images: Curve, end_s: float) -> Figure:
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=SIZE_INCHES)
    panels = figure.subplots(3, 1, sharex=True)
    ends = np.array([end_s, *(seconds[-1] for seconds, _ in running.values())])
    _, label = time_axis(ends)
    scale = float(time_axis(np.array([1.0, float(ends.max())]))[0][0])  # one second in the axis' unit
    for number, (source, (seconds, counts)) in enumerate(running.items()):
        x, y = np.append(seconds, ends.max()) * scale, np.append(counts, counts[-1])
        panels[0].step(x, y, where="post", color=style.LINES[number % len(style.LINES)], label=source)
    for number, (student, (seconds, values)) in enumerate(steps.items()):
        colour = style.GREEN if len(steps) == 1 else style.LINES[number % len(style.LINES)]
        panels[1].plot(seconds * scale, values, color=colour, label=student)
    panels[2].plot(images[0] * scale, images[1], color=style.ORANGE)
    for axes, title in zip(panels, _TITLES, strict=True):
        axes.set_title(title)
        axes.set_ylim(bottom=0, top=max(1e-9, 1.15 * axes.dataLim.y1) if axes.has_data() else 1.0)
    panels[0].yaxis.get_major_locator().set_params(integer=True)
    panels[2].set_xlabel(label)
    for axes, curves in ((panels[0], running), (panels[1], steps)):
        if len(curves) > 1:
            axes.legend(loc="best")
    figure.set_layout_engine("constrained")
    return figure
