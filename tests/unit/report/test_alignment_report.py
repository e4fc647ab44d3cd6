"""The report's section on feature alignment: for the runs that have it and for no other."""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from raydfkd import metrics
from raydfkd.report.features.alignment_section import feature_maps
from raydfkd.report.html import write_report
from raydfkd.report.loading import load_run
from raydfkd.report.pictures import strip_png
from raydfkd.testing.fake_run import write_fake_run

MEASURED = ("alignment", "discriminator")
SHOWN = 4
WIDTH = 64
"""Of the fake run's real features."""


def measured(run: Path) -> Path:
    """The run, whose synthesis records have what alignment measures."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in lines:
        if record["kind"] == "synthesis":
            record |= {metric.key: 0.5 for section in MEASURED for metric in metrics.of_section(section)}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def aligned_run(folder: Path, **changed: np.ndarray) -> Path:
    run, rng = measured(write_fake_run(folder)), np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for name, count in (("prototype", 20), ("first", 30), ("last", 30)):
        arrays |= {f"{name}_features": rng.normal(size=(count, WIDTH)), f"{name}_class": np.arange(count) % 10}
    arrays |= {
        "first_batches": np.array([0, 2]),
        "last_batches": np.array([699, 699]),
        "distances": np.array([[0, 1.5], [30.25, 31.5], [4.125, np.nan]]),
        "shown_class": np.arange(SHOWN),
        "shown_images": rng.integers(0, 256, (SHOWN, 3, 32, 32)).astype(np.uint8),
        "nearest_images": rng.integers(0, 256, (SHOWN, 8, 3, 32, 32)).astype(np.uint8),
    }
    np.savez(run / "analysis" / "alignment.npz", **arrays | changed)
    return run


def section_of(run: Path) -> str:
    text = write_report(run).read_text(encoding="utf-8")
    found = re.search(r'<section class="part" id="alignment".*?</section>', text, flags=re.DOTALL)
    return "" if found is None else found[0]


def test_a_run_with_alignment_has_maps_curves_distances_and_what_prototypes_drew(tmp_path: Path) -> None:
    found = section_of(aligned_run(tmp_path / "run"))
    for words in (
        "First images, batches 1 to 3",
        "Last images, batch 700",
        "What the discriminator gets right",
        "30.2",
        "4.12",
    ):
        assert words in found, words
    for section in MEASURED:
        assert all(metric.name in found for metric in metrics.of_section(section))
    assert found.count("<svg") == 3
    assert found.count("data:image/png;base64,") >= SHOWN


def test_the_first_image_of_a_strip_stands_apart() -> None:
    """Nine images of 32 pixels with 2 between them, and half an image behind the first."""
    pixels = imread(BytesIO(strip_png(np.full((9, 3, 32, 32), 255, np.uint8), first_apart=True)))
    assert pixels.shape == (32, 9 * 32 + 8 * 2 + 16, 4)
    assert pixels[:, 32 : 32 + 2 + 16, 3].max() == 0
    assert pixels[:, [0, 31, 50, 81], 3].min() == 1


def test_a_run_without_alignment_has_no_such_section(tmp_path: Path) -> None:
    text = write_report(write_fake_run(tmp_path / "run")).read_text(encoding="utf-8")
    assert "Feature alignment" not in text


def test_a_run_that_goes_on_has_its_curves(tmp_path: Path) -> None:
    found = section_of(measured(write_fake_run(tmp_path / "run", done=0.5, state="running")))
    assert found.count("<svg") == 2
    assert "at the end of a run" in found


def test_both_maps_have_all_prototypes_and_real_images_in_one_plane(tmp_path: Path) -> None:
    run = load_run(aligned_run(tmp_path / "run"))
    first, last = feature_maps(run).axes
    assert first.get_xlim() == last.get_xlim()
    numbers = [[len(points.get_offsets()) for points in axes.collections] for axes in (first, last)]
    assert numbers == [[len(run.features["real_features"]), 30, 20]] * 2
    real, _, prototypes = (points.get_offsets() for points in first.collections)
    np.testing.assert_allclose(np.concatenate([real, prototypes]).mean(0), 0, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"last_features": np.full((30, WIDTH), np.nan)}])
def test_incomplete_arrays_are_named_and_do_not_stop_the_report(wrong: dict[str, np.ndarray], tmp_path: Path) -> None:
    run = aligned_run(tmp_path / "run", **wrong)
    assert "analysis/alignment.npz is not complete" in write_report(run).read_text(encoding="utf-8")
    assert section_of(run).count("<svg") == 2
