"""Plots: thinning, axes and projections against closed forms, and every plot on the inputs that break plots."""

from __future__ import annotations

import numpy as np
import pytest

from raydfkd.report import figures
from raydfkd.report.pictures import figure_svg, shrink, strip_png


def test_thinning_keeps_the_mean_and_the_order() -> None:
    x = np.arange(1200.0)
    y = np.random.default_rng(0).normal(size=1200)
    px, py = figures.thin(x, y, 400)
    assert len(px) == 400
    np.testing.assert_allclose(px, x.reshape(400, 3).mean(axis=1))
    np.testing.assert_allclose(py, y.reshape(400, 3).mean(axis=1))


def test_thinning_drops_what_is_not_finite() -> None:
    px, py = figures.thin(np.array([0.0, 1.0, 2.0]), np.array([5.0, np.nan, 7.0]))
    assert px.tolist() == [0.0, 2.0]
    assert py.tolist() == [5.0, 7.0]


def test_running_mean_of_a_line_is_the_line_inside() -> None:
    y = np.arange(10.0)
    np.testing.assert_allclose(figures.running_mean(y, 3)[1:-1], y[1:-1])
    np.testing.assert_allclose(figures.running_mean(y, 3)[[0, -1]], [0.5, 8.5])


@pytest.mark.parametrize(
    ("end", "unit", "expected"), [(90.0, "seconds", 90.0), (1320.0, "minutes", 22.0), (36000.0, "hours", 10.0)]
)
def test_the_time_axis_has_a_fitting_unit(end: float, unit: str, expected: float) -> None:
    values, label = figures.time_axis(np.array([0.0, end]))
    assert label == f"time in {unit}"
    assert values[-1] == pytest.approx(expected)


def test_principal_axes_find_the_directions_of_known_variance() -> None:
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    points = (rng.normal(size=(4000, 5)) * np.array([9.0, 4.0, 1.0, 0.5, 0.1])) @ rotation.T + 3.0
    centre, axes = figures.principal_axes(points)
    np.testing.assert_allclose(centre, points.mean(axis=0))
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-9)
    # 4000 draws: the directions are within a few hundredths of the true ones.
    assert abs(axes[:, 0] @ rotation[:, 0]) > 0.99
    assert abs(axes[:, 1] @ rotation[:, 1]) > 0.99


@pytest.mark.parametrize("shape", [(1, 4), (7, 1), (2, 2)])
def test_principal_axes_of_too_little_are_filled_with_zeros(shape: tuple[int, int]) -> None:
    _, axes = figures.principal_axes(np.random.default_rng(0).normal(size=shape))
    assert axes.shape == (shape[1], 2)
    assert np.isfinite(axes).all()


def test_twelve_curves_become_their_mean_and_range() -> None:
    curves = {f"g{i}": (np.arange(5.0) + i / 10, np.full(5, float(i))) for i in range(12)}
    (axes,) = figures.lines(curves, "loss", "time in seconds").axes
    assert len(axes.get_lines()) == 1
    assert len(axes.collections) == 1
    assert np.nanmean(axes.get_lines()[0].get_ydata()) == pytest.approx(5.5, abs=0.3)


def test_awkward_inputs_still_draw() -> None:
    one = np.array([1.0])
    drawn = [
        figures.metric_curve(one, "student steps", np.array([0.5]), np.array([np.nan]), None),
        figures.metric_curve(one, "student steps", np.array([1.0]), np.array([1.0]), 1.0),
        figures.lines({"flat": (np.arange(3.0), np.zeros(3))}, "zero", "x", from_zero=True),
        figures.lines({"negative": (np.arange(3.0), np.array([-1.0, 0.0, 1.0]))}, "log refused", "x", log=True),
        figures.class_histogram(np.zeros(3), ["a", "b", "c"]),
        figures.class_histogram(np.arange(1000.0), [str(i) for i in range(1000)]),
        figures.class_bars(np.array([0.1, np.nan]), ["a", "b"], "t", "l"),
        figures.histogram(np.full(10, 3.0), "constant", "x"),
        figures.histogram(np.array([np.nan, 1.0, 2.0]), "nan", "x"),
        figures.stacked_shares(one, {"data": np.array([0.5])}, ["#0072b2"], "t", "x"),
        figures.feature_map(np.zeros((1, 2)), np.array([0]), ["雪 $x_"], "one point", "o"),
    ]
    for number, figure in enumerate(drawn):
        svg = figure_svg(figure, f"awkward-{number}")
        assert svg.startswith("<svg")
        assert svg.rstrip().endswith("</svg>")
        assert "http" not in svg


def test_histogram_shares_sum_to_one_and_whole_numbers_get_whole_bins() -> None:
    (axes,) = figures.histogram(np.repeat(np.arange(20.0), 3), "age", "batches").axes
    values, edges, _ = axes.patches[0].get_data()
    assert values.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(values, 1 / 20)
    np.testing.assert_allclose(np.diff(edges), 1.0)


def test_large_images_are_averaged_down_and_small_ones_left() -> None:
    images = np.zeros((1, 1, 8, 8), dtype=np.uint8)
    images[0, 0, ::2] = 100
    assert shrink(images, 8) is images
    halved = shrink(images, 4)
    assert halved.shape == (1, 1, 4, 4)
    assert (halved == 50).all()


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_strips_hold_every_image(channels: int) -> None:
    from matplotlib.image import imread

    images = np.stack([np.full((channels, 4, 6), value, dtype=np.uint8) for value in (0, 128, 255)])
    import io

    pixels = np.rint(255 * imread(io.BytesIO(strip_png(images, gap=2)))).astype(int)
    assert pixels.shape == (4, 3 * 6 + 2 * 2, 4)
    assert pixels[0, [0, 8, 16], 0].tolist() == [0, 128, 255]
    assert pixels[0, [6, 7, 14, 15], 3].tolist() == [0, 0, 0, 0]
