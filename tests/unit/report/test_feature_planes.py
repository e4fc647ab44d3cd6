"""The picture of networks with two features: in a run's report, in a comparison, and what it is drawn of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raydfkd.report.compare import write_comparison
from raydfkd.report.features.planes import planes_figure, planes_of
from raydfkd.report.html import write_report
from raydfkd.report.loading import load_run
from raydfkd.testing.fake_run import write_fake_run

CORNERS = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
"""Weights of a head that gives each quadrant to a class of its own."""
QUADRANTS = [0, 1, 2, 3]


def planar_run(folder: Path, *, real: bool = True, **changed: np.ndarray) -> Path:
    """A run of a teacher and a student, each with a class a quadrant; the student's features are three times the teacher's."""
    run = write_fake_run(folder)
    points = np.stack([2 * CORNERS, 6 * CORNERS])
    arrays = {
        "network": np.array(["teacher", "student small"]),
        "weight": np.stack([CORNERS, CORNERS]),
        "bias": np.zeros((2, 4)),
        "synthetic_features": points / 2,
    }
    if real:
        arrays |= {"real_features": points, "real_class": np.array(QUADRANTS)}
    np.savez(run / "analysis" / "planes.npz", **arrays | changed)
    return run


def test_regions_are_the_head_s_decisions_and_points_are_coloured_by_their_true_class(tmp_path: Path) -> None:
    planes = planes_of(load_run(planar_run(tmp_path / "run", real_class=np.array([1, 0, 2, 3]))))
    figure = planes_figure(planes, ["a", "b", "c", "d"])
    axes = figure.axes[1]
    regions = np.asarray(axes.images[0].get_array())
    size = len(regions)
    quarter, rest = size // 4, 3 * size // 4
    corners = [regions[y, x] for y, x in ((rest, rest), (rest, quarter), (quarter, quarter), (quarter, rest))]
    assert corners == QUADRANTS
    behind, points = axes.collections
    np.testing.assert_allclose(behind.get_offsets(), 3 * CORNERS)
    np.testing.assert_allclose(points.get_offsets(), 6 * CORNERS)
    colours = [axes.images[0].cmap(number)[:3] for number in (1, 0, 2, 3)]
    np.testing.assert_allclose(points.get_facecolors()[:, :3], colours)
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c", "d"]
    assert axes.get_xlim() == pytest.approx((-7.2, 7.2))


def test_a_bias_moves_the_regions(tmp_path: Path) -> None:
    plane = planes_of(load_run(planar_run(tmp_path / "run", bias=np.array([[0, 0, 0, 0], [9.0, 0, 0, 0]]))))[1]
    assert plane.decisions(np.array([[-2.0, -2.0], [-3.0, -3.0]])).tolist() == [0, 2]


def test_a_report_has_them_where_a_network_has_two_features(tmp_path: Path) -> None:
    text = write_report(planar_run(tmp_path / "run")).read_text(encoding="utf-8")
    assert "teacher, 88.8%" in text
    assert "student small" in text
    assert "Networks with two features" in text
    assert "Networks with two features" not in write_report(write_fake_run(tmp_path / "other")).read_text(encoding="utf-8")


def test_a_report_without_labelled_images_shows_what_the_student_saw(tmp_path: Path) -> None:
    run = planar_run(tmp_path / "run", real=False)
    (run / "analysis" / "features.npz").unlink()
    assert "Networks with two features" in write_report(run).read_text(encoding="utf-8")


def test_a_comparison_has_the_teacher_once_and_every_student(tmp_path: Path) -> None:
    runs = [planar_run(tmp_path / name) for name in ("a", "b")]
    text = write_comparison(runs, tmp_path / "out", labels=["own data", "photographs"]).read_text(encoding="utf-8")
    drawn = text[text.index('id="planes"') :]
    assert [drawn.count(f">{title}<") for title in ("teacher, 88.8%", "own data", "photographs")] == [1, 1, 1]
    assert (tmp_path / "out" / "planes.png").read_bytes().startswith(b"\x89PNG")


def test_incomplete_arrays_are_named_and_do_not_stop_the_report(tmp_path: Path) -> None:
    run = planar_run(tmp_path / "run", bias=np.full((2, 4), np.nan))
    text = write_report(run).read_text(encoding="utf-8")
    assert "analysis/planes.npz is not complete" in text
    assert "Networks with two features" not in text
