"""The section on feature alignment: whether synthetic images got the features of the prototypes, and which each prototype drew.

The picture of Fig. 3 in "Condensed Data Expansion Using Model Inversion for Knowledge Distillation" (arXiv 2408.13850).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raydfkd.report import figures, style
from raydfkd.report.features.feature_section import finite_features
from raydfkd.report.loading import RunData
from raydfkd.report.metric_plots import plots_of, shared_plot
from raydfkd.report.page_parts import Section, Strip, Table
from raydfkd.report.pictures import figure_svg, png_address, strip_png
from raydfkd.report.result_rows import MISSING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEAD = (
    "Prototypes are the collected images whose features the generator's images are aligned with. Curves are of what the "
    "discriminator gets, images through DiffAugment; all else is of the teacher's penultimate features of the images as they "
    "are."
)
_MAP_CAPTION = (
    "Features on the first two principal components of prototypes and real images: synthetic images are dots and prototypes "
    "diamonds, coloured by class, real images are grey. The first images were made when generator and discriminator had hardly "
    "learnt anything; how images come out without alignment, a run without it shows."
)
_DISTANCE_CAPTION = (
    "Distances are squared Fréchet distances between Gaussians of both sets, one a class, and the mean over classes. A "
    "covariance is diagonal and shared by a set's classes, because a few images of a class do not give one. That from "
    "prototypes to real images is what perfect alignment would leave."
)
_DRAWN_CAPTION = "Each strip is a prototype, on the left, and the newest synthetic images nearest to it in feature space."
_IMAGES_A_ROW = 10
"""As in the other rows of images."""
_ROWS = ("prototypes", "first images", "last images")


def alignment(run: RunData) -> Section | None:
    """None for a run without feature alignment."""
    plots = [*plots_of(run, "alignment"), *shared_plot(run, "discriminator", "What the discriminator gets right")]
    arrays = run.alignment
    if not plots and not arrays:
        return None
    if not arrays:
        return Section(lead=_LEAD, plots=plots, notes=["Features and images are there at the end of a run."])
    return Section(
        lead=_LEAD,
        wide=[figure_svg(feature_maps(run), "alignment-features")],
        plots=plots,
        strips=_drawn(run),
        tables=[_distances(arrays["distances"])],
        notes=[_MAP_CAPTION, _DISTANCE_CAPTION, _DRAWN_CAPTION],
    )


@style.styled
def feature_maps(run: RunData) -> Figure:
    """First and last synthetic images beside each other, each with prototypes and real images, on common axes."""
    from matplotlib.figure import Figure

    arrays, found = run.alignment, finite_features(run, "real")
    real = np.empty((0, arrays["prototype_features"].shape[1])) if found is None else found[0]
    centre, directions = figures.principal_axes(np.concatenate([arrays["prototype_features"], real]).astype(np.float64))
    names = run.class_names(int(max(arrays[f"{name}_class"].max() for name in ("prototype", "first", "last"))) + 1)
    figure = Figure(figsize=(8.7, 4.2))
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, name in zip(panels, ("first", "last"), strict=True):
        low, high = (int(number) + 1 for number in arrays[f"{name}_batches"])
        of_batches = f"batch {low:,}" if low == high else f"batches {low:,} to {high:,}"
        axes.set(title=f"{name.capitalize()} images, {of_batches}", xticklabels=[], yticklabels=[])
        behind = (real - centre) @ directions
        axes.scatter(behind[:, 0], behind[:, 1], s=5, color=style.MUTED, alpha=0.25, linewidths=0, rasterized=True)
        for kind, marker, size in ((name, "o", 9), ("prototype", "D", 20)):
            flat, classes = (arrays[f"{kind}_features"] - centre) @ directions, arrays[f"{kind}_class"]
            _scatter(axes, flat, classes, marker, size)
            if kind == "prototype":
                figures.name_classes(axes, flat, classes, names)
    return figure


def _scatter(axes: Axes, points: np.ndarray, classes: np.ndarray, marker: str, size: int) -> None:
    colours = np.array(style.CLASSES)[classes % len(style.CLASSES)]
    edges = {"linewidths": 0} if marker == "o" else {"linewidths": 0.7, "edgecolors": style.INK}
    axes.scatter(points[:, 0], points[:, 1], s=size, c=colours, marker=marker, alpha=0.75, rasterized=True, **edges)


def _distances(distances: np.ndarray) -> Table:
    rows: list[tuple[str, ...]] = [
        (name, *(MISSING if np.isnan(value) else f"{value:.3g}" for value in row))
        for name, row in zip(_ROWS, distances, strict=True)
    ]
    return Table(("distance of", "from prototypes", "from real images"), rows)


def _drawn(run: RunData) -> list[Strip]:
    """A strip for each prototype shown: itself, and its nearest."""
    arrays = run.alignment
    names = run.class_names(int(arrays["shown_class"].max()) + 1)
    rows = np.concatenate([arrays["shown_images"][:, None], arrays["nearest_images"]], axis=1)
    share = (rows.shape[1] + 0.5) / _IMAGES_A_ROW
    pictures = [png_address(strip_png(row, first_apart=True)) for row in rows]
    return [Strip(names[k], picture, share) for k, picture in zip(arrays["shown_class"], pictures, strict=True)]
