"""Networks with two features: where images lie in their plane, over the regions into which the head divides it.

The picture of Fig. 2 in "What Makes a Good Dataset for Knowledge Distillation?".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raydfkd.report import style
from raydfkd.report.figures import name_classes
from raydfkd.report.loading import RunData
from raydfkd.report.result_rows import part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLANES_CAPTION = (
    "Networks with two features: the areas are their decisions, coloured points the test images by their true class, grey "
    "points the images that the student was trained on."
)
_COLUMNS = 4
_PIXELS = 300


@dataclass(frozen=True)
class Plane:
    """One network's plane.

    Attributes:
        network: ``teacher`` or ``student NAME``.
        title: what it is called, and its metric where that is known.
        weight, bias: [K,2] and [K] of the head.
        points, classes: [n,2] and int [n], features of labelled images and their classes.
        behind: [m,2], features of the buffer's images.
    """

    network: str
    title: str
    weight: np.ndarray
    bias: np.ndarray
    points: np.ndarray
    classes: np.ndarray
    behind: np.ndarray

    def decisions(self, points: np.ndarray) -> np.ndarray:
        """The class int64 [n] that the head gives to features [n,2]."""
        return (points @ self.weight.T + self.bias).argmax(1)


def planes_of(run: RunData, label: str | None = None) -> list[Plane]:
    """The planes of a run's teacher and students, as far as they have two features.

    Args:
        label: what the run is called beside others; the titles of its students begin with it.
    """
    arrays = run.planes
    planes = []
    for number, network in enumerate(arrays.get("network", ())):
        kind, _, name = str(network).partition(" ")
        metric = part(run.outcome, "teacher", "metric")
        if kind == "student":
            metric = (part(run.outcome, "students", name) or {}).get("metric_last")
        title = str(network)
        if label is not None and kind == "student":
            title = label if len(run.outcome.get("students") or {}) < 2 else f"{label}, {name}"
        real = arrays.get("real_features")
        planes.append(
            Plane(
                str(network),
                title if metric is None else f"{title}, {100 * metric:.1f}%",
                arrays["weight"][number],
                arrays["bias"][number],
                np.zeros((0, 2)) if real is None else real[number],
                arrays.get("real_class", np.zeros(0, np.int64)),
                arrays["synthetic_features"][number],
            )
        )
    return planes


@style.styled
def planes_figure(planes: Sequence[Plane], names: Sequence[str]) -> Figure:
    """The planes side by side, four a row."""
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(planes))
    rows = -(-len(planes) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.9 * rows))
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, plane in zip(grid, planes, strict=False):
        _draw(axes, plane, names)
    for axes in grid[len(planes) :]:
        axes.remove()
    return figure


def _draw(axes: Axes, plane: Plane, names: Sequence[str]) -> None:
    """One plane, as far as the labelled images reach; a margin of a tenth around them."""
    from matplotlib.colors import ListedColormap

    shown = plane.points if len(plane.points) else plane.behind
    low, high = shown.min(0), shown.max(0)
    margin = 0.1 * np.maximum(high - low, 1e-6)
    (left, bottom), (right, top) = low - margin, high + margin
    x, y = np.meshgrid(np.linspace(left, right, _PIXELS), np.linspace(bottom, top, _PIXELS))
    regions = plane.decisions(np.stack([x.ravel(), y.ravel()], 1)).reshape(x.shape)
    colours = np.array(style.CLASSES)
    axes.imshow(
        regions % len(colours),
        cmap=ListedColormap(list(colours)),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
        alpha=0.3,
        extent=(left, right, bottom, top),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    axes.scatter(plane.behind[:, 0], plane.behind[:, 1], s=4, color=style.MUTED, alpha=0.35, linewidths=0, rasterized=True)
    axes.scatter(
        plane.points[:, 0], plane.points[:, 1], s=7, c=colours[plane.classes % len(colours)], linewidths=0, rasterized=True
    )
    name_classes(axes, plane.points, plane.classes, names)
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], title=plane.title)
    axes.grid(visible=False)
