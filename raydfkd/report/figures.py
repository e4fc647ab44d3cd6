"""The plots, each a function from arrays to a matplotlib ``Figure``. No pyplot: nothing stays open, no display is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raydfkd.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (5.2, 3.0)
_MOST_POINTS = 400
_MOST_NAMED_CLASSES = 20
_MOST_LINES = 8
_LEAST_SMOOTHED = 60


def time_axis(seconds: np.ndarray) -> tuple[np.ndarray, str]:
    """The times in the unit that suits their end, and the axis' label."""
    longest = float(np.max(seconds, initial=0.0))
    unit = "seconds" if longest <= 180 else "minutes" if longest <= 180 * 60 else "hours"
    return in_unit_of(f"time in {unit}", seconds), f"time in {unit}"


def in_unit_of(label: str, seconds: np.ndarray) -> np.ndarray:
    """``seconds`` in the unit that ends an axis label of :func:`time_axis`."""
    return seconds / {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}[label.rsplit(" ", 1)[1]]


def thin(x: np.ndarray, y: np.ndarray, most: int = _MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbouring points, at most ``most``; points with NaN are left out."""
    kept = np.isfinite(x) & np.isfinite(y)
    x, y = x[kept], y[kept]
    if len(x) <= most:
        return x, y
    starts = np.linspace(0, len(x), most, endpoint=False).astype(np.int64)
    counts = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def running_mean(y: np.ndarray, width: int) -> np.ndarray:
    """Mean of the ``width`` values around each of ``y`` [n]; fewer at the ends."""
    half = width // 2
    sums = np.concatenate([[0.0], np.cumsum(y)])
    at = np.arange(len(y))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(y))
    return (sums[high] - sums[low]) / (high - low)


@style.styled
def metric_curve(
    x: np.ndarray,
    x_label: str,
    last: np.ndarray,
    ema: np.ndarray,
    teacher: float | None,
    metric: str = "accuracy",
) -> Figure:
    """Student metric (last and EMA, fractions [n]; NaN where not measured) over ``x`` [n], and the teacher's as a line."""
    figure, axes = _figure(f"{metric} over {'steps' if 'step' in x_label else 'time'}".capitalize(), x_label)
    shown = []
    looks: tuple[tuple[np.ndarray, str, Any, str], ...] = (
        (last, style.BLUE, "-", "student, last"),
        (ema, style.VERMILLION, (0, (5, 2)), "student, EMA"),
    )
    for y, colour, dashes, label in looks:
        if np.isfinite(y).any():
            px, py = thin(x, y)
            axes.plot(px, py, color=colour, linestyle=dashes, label=label, marker="o" if len(px) <= 30 else None, markersize=3)
            shown.append(py)
    if teacher is not None:
        axes.axhline(teacher, color=style.MUTED, linewidth=1.2, linestyle=(0, (2, 2)), label=f"teacher, {100 * teacher:.1f}%")
        shown.append(np.array([teacher]))
    _percent_axis(axes, np.concatenate(shown))
    axes.legend(loc="best")
    return figure


@style.styled
def lines(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str,
    x_label: str,
    *,
    percent: bool = False,
    log: bool = False,
    from_zero: bool = False,
    smooth: bool = False,
    limit: tuple[str, float] | None = None,
) -> Figure:
    """Curves by name, each (x [n], y [n]), thinned to 400 points. More than eight become their mean and range.

    ``smooth`` draws a running mean over the pale curve itself; ``limit`` is a named horizontal line, such as a capacity.
    """
    figure, axes = _figure(title, x_label)
    if len(curves) > _MOST_LINES:
        _mean_and_range(axes, curves)
    else:
        for number, (name, (x, y)) in enumerate(curves.items()):
            px, py = thin(x, y)
            colour = style.LINES[number % len(style.LINES)]
            dashes = style.DASHES[number % len(style.DASHES)] if len(curves) > 1 else "-"
            if smooth and len(px) >= _LEAST_SMOOTHED:
                axes.plot(px, py, color=colour, linewidth=0.9, alpha=0.3)
                py = running_mean(py, max(3, len(py) // 30))
            axes.plot(px, py, color=colour, linestyle=dashes, label=name, marker="o" if len(px) == 1 else None)
    if limit is not None:
        axes.axhline(limit[1], color=style.MUTED, linewidth=1.2, linestyle=(0, (2, 2)), label=limit[0])
    if log and all((y[np.isfinite(y)] > 0).all() for _, y in curves.values()):
        axes.set_yscale("log")
        _plain_log_ticks(axes.yaxis)
    else:
        _open_range(axes, from_zero)
    if percent:
        _percent_axis(axes, np.concatenate([y for _, y in curves.values()]))
    elif axes.get_yscale() != "log":
        _large_numbers(axes.yaxis)
    if len(curves) > 1 or limit is not None:
        axes.legend(loc="best", ncols=2 if len(curves) > 4 else 1)
    return figure


@style.styled
def class_histogram(counts: np.ndarray, names: Sequence[str], title: str = "Buffer images by the teacher's class") -> Figure:
    """``counts`` [K] as bars, and what every class would hold if they were equal. More than 20 classes are not named."""
    figure, axes = _figure(title, "class")
    _bars(axes, counts, names)
    mean = float(np.mean(counts))
    axes.axhline(mean, color=style.MUTED, linewidth=1.2, linestyle=(0, (2, 2)), label=f"equal shares, {mean:,.0f}")
    axes.set_ylim(0, max(float(np.max(counts)), 1.0) * 1.2)
    _large_numbers(axes.yaxis)
    axes.legend(loc="upper right")
    return figure


@style.styled
def class_bars(values: np.ndarray, names: Sequence[str], title: str, label: str) -> Figure:
    """One value per class [K], NaN where a class has none, and the mean of the classes."""
    figure, axes = _figure(title, "class")
    _bars(axes, values, names)
    mean = float(np.nanmean(values))
    axes.axhline(mean, color=style.MUTED, linewidth=1.2, linestyle=(0, (2, 2)), label=f"mean of the classes, {mean:.3g}")
    axes.set_ylabel(label)
    axes.set_ylim(0, max(float(np.nanmax(values)), 1e-6) * 1.2)
    axes.legend(loc="upper right")
    return figure


@style.styled
def histogram(
    values: np.ndarray, title: str, x_label: str, span: tuple[float, float] | None = None, counted: str = "images"
) -> Figure:
    """Distribution of ``values`` [n] as shares of all, with the median. Positive ones over two decades get a log axis."""
    figure, axes = _figure(title, x_label)
    values = values[np.isfinite(values)]
    low, high = span if span is not None else (float(values.min()), float(values.max()))
    wide = span is None and low > 0 and high > 100 * low
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.geomspace(low, high, 41) if wide else _edges(values, low, high)
    counts, _ = np.histogram(values, edges)
    axes.stairs(counts / len(values), edges, fill=True, color=style.BLUE, alpha=0.85)
    median = float(np.median(values))
    axes.axvline(median, color=style.VERMILLION, linewidth=1.5, label=f"median {median:.3g}")
    if wide:
        axes.set_xscale("log")
        _plain_log_ticks(axes.xaxis)
    elif (np.diff(edges) >= 1).all():
        _whole_ticks(axes.xaxis)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, float(counts.max()) / len(values) * 1.15)
    _share_ticks(axes.yaxis)
    axes.set_ylabel(f"share of {counted}")
    axes.legend(loc="best")
    return figure


@style.styled
def stacked_shares(x: np.ndarray, shares: Mapping[str, np.ndarray], colours: Sequence[str], title: str, x_label: str) -> Figure:
    """Shares of the time by cause, ``x`` [n] and each [n] in [0,1], stacked in their colours."""
    figure, axes = _figure(title, x_label)
    thinned = {name: thin(x, y, 120) for name, y in shares.items()}
    px = next(iter(thinned.values()))[0]
    stack = [py for _, py in thinned.values()]
    axes.stackplot(px, stack, labels=list(shares), colors=colours, alpha=0.9, linewidth=0)
    top = float(np.max(np.sum(stack, axis=0), initial=0.0))
    axes.set_ylim(0, min(1.0, max(0.02, 1.35 * top)))
    if px[-1] > px[0]:
        axes.set_xlim(px[0], px[-1])
    _share_ticks(axes.yaxis)
    axes.legend(loc="upper right")
    return figure


@style.styled
def feature_map(
    points: np.ndarray, classes: np.ndarray, names: Sequence[str], title: str, marker: str, background: np.ndarray | None = None
) -> Figure:
    """Points [n,2] coloured by class [n], named at each class' centre up to 20 classes; ``background`` [m,2] in grey behind."""
    figure, axes = _figure(title, "first principal component", height=4.2)
    axes.set_ylabel("second principal component")
    if background is not None:
        axes.scatter(background[:, 0], background[:, 1], s=5, color="#9aa3ad", alpha=0.25, linewidths=0, rasterized=True)
    colours = np.array(style.CLASSES)[classes % len(style.CLASSES)]
    look: dict[str, Any] = {"linewidths": 0.7} if marker == "x" else {"linewidths": 0}
    axes.scatter(points[:, 0], points[:, 1], s=9, c=colours, marker=marker, alpha=0.75, rasterized=True, **look)
    name_classes(axes, points, classes, names)
    axes.set_xticklabels([])
    axes.set_yticklabels([])
    return figure


def name_classes(axes: Axes, points: np.ndarray, classes: np.ndarray, names: Sequence[str]) -> None:
    """Writes each class' name at the middle of its ``points`` [n,2], up to 20 classes."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground=style.PAPER)]
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8.5, "weight": "bold", "path_effects": halo}
    for number in np.unique(classes) if len(names) <= _MOST_NAMED_CLASSES else ():
        x, y = np.median(points[classes == number], axis=0)
        axes.text(float(x), float(y), _short(names[number]), **look)


@dataclass(frozen=True)
class Curve:
    """Fractions over ``x`` [N]: mean, lowest and highest [N] of one or several runs."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, runs_RN: np.ndarray) -> Curve:
        return cls(x, runs_RN.mean(axis=0), runs_RN.min(axis=0), runs_RN.max(axis=0))


@style.styled
def overlay(curves: Mapping[str, Curve], title: str, x_label: str, teacher: float | None = None) -> Figure:
    """One metric curve per setting, by label, with a band if it has several runs, and the teacher's metric as a line."""
    figure, axes = _figure(title, x_label, height=3.4)
    draw_overlay(axes, curves, teacher)
    axes.legend(loc="best")
    return figure


@style.styled
def side_by_side(panels: Sequence[Mapping[str, Any]]) -> Figure:
    """Overlays beside each other on white, as a picture of their own; each panel is the arguments of :func:`overlay`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0 * len(panels), 4.0), facecolor="white")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        label_axes(axes, panel["title"], panel["x_label"])
        draw_overlay(axes, panel["curves"], panel["teacher"])
        axes.legend(loc="best")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    return figure


def principal_axes(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and the two directions [D,2] of largest variance of ``features`` [n,D], by SVD; signs are fixed.

    One feature alone, or one point alone, gets zeros for what it lacks.
    """
    centre = features.mean(axis=0)
    _, _, directions = np.linalg.svd(features - centre, full_matrices=False)
    first_two = np.zeros((features.shape[1], 2))
    found = directions[:2].T
    signs = np.sign(found[np.argmax(np.abs(found), axis=0), np.arange(found.shape[1])])
    first_two[:, : found.shape[1]] = found * np.where(signs == 0, 1.0, signs)
    return centre, first_two


def draw_overlay(axes: Axes, curves: Mapping[str, Curve], teacher: float | None) -> None:
    """A curve per setting, and the teacher's metric as a line; without a legend."""
    everything = [bound for curve in curves.values() for bound in (curve.low, curve.high)]
    for number, (label, curve) in enumerate(curves.items()):
        px, py = thin(curve.x, curve.mean)
        # The dashes shift by one each time the colours repeat, so that the first 24 runs all look different.
        dashes = style.DASHES[(number // len(style.LINES) + number) % len(style.DASHES)]
        color = style.LINES[number % len(style.LINES)]
        axes.plot(px, py, color=color, linestyle=dashes, label=_short(label, 40), marker="o" if len(px) == 1 else None)
        if (curve.low < curve.high).any():
            axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.15, linewidth=0)
    if teacher is not None:
        axes.axhline(teacher, color=style.MUTED, linewidth=1.2, linestyle=(0, (2, 2)), label=f"teacher, {100 * teacher:.1f}%")
        everything.append(np.array([teacher]))
    _percent_axis(axes, np.concatenate(everything))


def _figure(title: str, x_label: str, height: float = SIZE_INCHES[1]) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE_INCHES[0], height))
    axes = figure.subplots()
    label_axes(axes, title, x_label)
    return figure, axes


def label_axes(axes: Axes, title: str, x_label: str) -> None:
    """Title and label; steps and images are written in full."""
    axes.set_title(title)
    axes.set_xlabel(x_label)
    if "step" in x_label or "images" in x_label:
        _large_numbers(axes.xaxis)


def _open_range(axes: Axes, from_zero: bool) -> None:
    """Room above the curve; a constant gets a range of its own size, so that its ticks differ."""
    low, high = axes.dataLim.y0, axes.dataLim.y1
    if from_zero:
        axes.set_ylim(0, 1.12 * high if high > 0 else 1.0)
    elif high - low < 1e-3 * max(abs(low), abs(high)):
        middle, half = (low + high) / 2, max(abs(low), abs(high)) / 10
        axes.set_ylim(middle - half, middle + half)


def _bars(axes: Axes, values: np.ndarray, names: Sequence[str]) -> None:
    axes.grid(visible=False, axis="x")
    named = len(values) <= _MOST_NAMED_CLASSES
    axes.bar(np.arange(len(values)), np.nan_to_num(values), color=style.BLUE, width=0.76 if named else 1.0)
    axes.set_xlim(-0.6, len(values) - 0.4)
    if named:
        turned = max((len(n) for n in names), default=0) > 4 and len(values) > 5
        look: dict[str, Any] = {"rotation": 35, "ha": "right"} if turned else {"rotation": 0, "ha": "center"}
        axes.set_xticks(np.arange(len(values)), [_short(n) for n in names], **look)
        axes.set_xlabel("")


def _edges(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Edges of 40 bins; for whole numbers, of bins that each span the same number of them."""
    if high - low < 1 or (values != np.rint(values)).any():
        return np.linspace(low, high, 41)
    width = -(-(high - low + 1) // 40)
    return np.arange(low - 0.5, high + width, width)


def _mean_and_range(axes: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    start = min(float(x[0]) for x, _ in curves.values())
    end = max(float(x[-1]) for x, _ in curves.values())
    grid = np.linspace(start, end, 200)
    sampled = np.array([np.interp(grid, *thin(x, y), left=np.nan, right=np.nan) for x, y in curves.values()])
    covered = np.isfinite(sampled).any(axis=0)
    grid, sampled = grid[covered], sampled[:, covered]
    axes.fill_between(grid, np.nanmin(sampled, axis=0), np.nanmax(sampled, axis=0), color=style.BLUE, alpha=0.2, linewidth=0)
    axes.plot(grid, np.nanmean(sampled, axis=0), color=style.BLUE, label=f"mean and range of {len(curves)}")


def _percent_axis(axes: Axes, values: np.ndarray) -> None:
    values = values[np.isfinite(values)]
    low, high = float(values.min(initial=1.0)), float(values.max(initial=0.0))
    margin = max(0.01, 0.06 * (high - low))
    axes.set_ylim(max(0.0, low - margin), min(1.0, high + margin) if high < 1 else 1.0 + 0.01)
    _share_ticks(axes.yaxis)


def _share_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))


def _large_numbers(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}".replace("-", "\u2212")))


def _whole_ticks(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))
    _large_numbers(axis)


def _plain_log_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.set_minor_formatter(NullFormatter())


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
