"""The section on tasks with a class for each pixel: images beside the masks that networks give them, and each class's IoU."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raydfkd.report import figures, style
from raydfkd.report.loading import RunData
from raydfkd.report.page_parts import Section, Table
from raydfkd.report.pictures import figure_svg
from raydfkd.report.result_rows import MISSING, metric_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP = 4
"""Pixels between pictures."""
_MOST_SIDE = 128
_GOLDEN = 0.618034
_MOST_LEGEND_COLUMNS = 8


def masks(run: RunData) -> Section | None:
    """None for a run whose images have one class each."""
    found = run.masks
    if not found:
        return None
    networks = [str(name) for name in found["network"]]
    names = run.class_names(int(max(found[key].max() for key in found if key.endswith(("_masks", "_truth")))) + 1)
    wide = []
    for kind, title in (("synthetic", "Synthetic images of the buffer"), ("real", "Evaluation images")):
        if f"{kind}_images" not in found:
            continue
        rows = [] if kind == "synthetic" else [("truth", found["real_truth"])]
        rows += list(zip(networks, found[f"{kind}_masks"], strict=True))
        wide.append(figure_svg(mask_figure(title, found[f"{kind}_images"], rows, names), f"masks-{kind}"))
    plots, tables = _by_class(run, networks)
    lead = "Images in columns: as they are, then each pixel's class by the networks; black pixels do not count."
    notes = [] if "real_images" in found else ["The run has no evaluation images to compare with the truth."]
    return Section(lead=lead, wide=wide, plots=plots, tables=tables, notes=notes)


def colours(num_classes: int) -> np.ndarray:
    """uint8 [K,3]: distinct colours, those of the report's other plots first."""
    hexes = style.CLASSES[:num_classes]
    first = [[int(code[start : start + 2], 16) for start in (1, 3, 5)] for code in hexes]
    rest = [
        [round(255 * part) for part in colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.75 - 0.3 * (number % 2), 0.9)]
        for number in range(num_classes - len(first))
    ]
    return np.array([*first, *rest], dtype=np.uint8)


@style.styled
def mask_figure(title: str, images: np.ndarray, rows: Sequence[tuple[str, np.ndarray]], names: Sequence[str]) -> Figure:
    """The images uint8 [n,C,H,W] side by side, under them their masks [n,H,W] by what gave them, and what colours mean."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    step = -(-max(images.shape[2:]) // _MOST_SIDE)
    palette = np.vstack([colours(len(names)), np.zeros((1, 3), np.uint8)])  # the last one is that of -1
    shown = (images if images.shape[1] == 3 else np.repeat(images[:, :1], 3, axis=1)).transpose(0, 2, 3, 1)
    pictures = [shown[:, ::step, ::step], *(palette[mask[:, ::step, ::step]] for _, mask in rows)]
    mosaic = _mosaic(pictures)
    height, width = mosaic.shape[:2]
    present = np.unique(np.concatenate([mask.ravel() for _, mask in rows]))
    classes = [int(k) for k in present if k >= 0]
    legend_rows = -(-len(classes) // _MOST_LEGEND_COLUMNS)
    inches = 2 * figures.SIZE_INCHES[0]
    figure = Figure(figsize=(inches, inches * height / width + 0.5 + 0.25 * legend_rows))
    axes = figure.subplots()
    axes.imshow(mosaic, interpolation="none")
    axes.set_title(title)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    one = pictures[0].shape[1] + _GAP
    axes.set_xticks([])
    axes.set_yticks([one * row + one / 2 for row in range(len(pictures))], ["image", *(name for name, _ in rows)])
    patches = [Patch(color=palette[k] / 255, label=names[k]) for k in classes]
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.01)}
    axes.legend(handles=patches, ncols=min(len(classes), _MOST_LEGEND_COLUMNS), **place)
    return figure


def _mosaic(rows: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 [rows of pictures,columns,4] of rows [n,h,w,3] of equal shape, transparent between the pictures."""
    num, height, width = rows[0].shape[:3]
    canvas = np.zeros((len(rows) * (height + _GAP) - _GAP, num * (width + _GAP) - _GAP, 4), np.uint8)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            top, left = row * (height + _GAP), column * (width + _GAP)
            canvas[top : top + height, left : left + width, :3] = picture
            canvas[top : top + height, left : left + width, 3] = 255
    return canvas


def _by_class(run: RunData, networks: Sequence[str]) -> tuple[list[str], list[Table]]:
    """A plot of each student's figure by class, and a table of all networks'."""
    of_students = run.outcome.get("students")
    owners = {"teacher": run.outcome.get("teacher"), **(of_students if isinstance(of_students, dict) else {})}
    found = {name: one["per_class"] for name, one in owners.items() if isinstance(one, dict) and one.get("per_class")}
    if not found:
        return [], []
    names, label = run.class_names(len(next(iter(found.values())))), metric_label(run.outcome)
    by_class = label.removeprefix("mean ")
    plots = []
    for name, values in found.items():
        known = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        if np.isfinite(known).any():
            title = f"{by_class} by class, {name if name == 'teacher' else f'student {name}'}"
            plots.append(figure_svg(figures.class_bars(known, names, title, by_class), f"by-class-{name}"))
    rows = [
        (names[k], *(MISSING if values[k] is None else f"{100 * values[k]:.1f}%" for values in found.values()))
        for k in range(len(names))
    ]
    means = [(label, *(_percent(owners[name], "metric", "metric_last") for name in found))]
    means.append(("pixel accuracy", *(_percent(owners[name], "pixel_accuracy") for name in found)))
    return plots, [Table(("class", *found), [*rows, *means], f"{by_class} of each class (students: last weights)")]


def _percent(owner: Any, *keys: str) -> str:
    value = next((owner[key] for key in keys if isinstance(owner.get(key), int | float)), None)
    return MISSING if value is None else f"{100 * value:.1f}%"
