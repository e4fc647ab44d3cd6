"""Building a data set on Ray Data: byte for byte what is built without Ray, whoever finishes first, and its refusals."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydfkd.errors import DataError, ResourceError
from raydfkd.pipeline.dataset.build import DatasetBuild, execute_here
from raydfkd.pipeline.dataset.config import DatasetBuildConfig
from raydfkd.pipeline.dataset.folder import BuildFolder
from raydfkd.pipeline.dataset.parts import Pass
from raydfkd.pipeline.dataset.reading import Columns, Span, spans
from raydfkd.runtime.dataset_build_on_ray import build_on_ray, execute_on_ray
from raydfkd.runtime.ray_session import QUIET


def settings(teacher: Path, **sections: Any) -> DatasetBuildConfig:
    """120 digits in parts of 25, two teachers."""
    tree: dict[str, Any] = {
        "task": {"num_classes": 10, "image_shape": [1, 8, 8]},
        "teacher": {"model": "small_cnn_8", "checkpoint": str(teacher), "normalization": {"mean": [0.3], "std": [0.3]}},
        "selection": {"num_images": 60},
        "runtime": {
            "num_teachers": 2,
            "resources": {"num_cpus": 1, "num_threads": 1},
            "part_size": 25,
            "batch_size": 8,
            "images_per_file": 40,
            "bf16": False,
            "device": "cpu",
            "wait_timeout_s": 300,
        },
        **sections,
    }
    if "images" not in tree:
        tree.setdefault("dataset", {"kind": "digits", "split": "train", "max_images": 120})
    return DatasetBuildConfig.model_validate(tree)


def built(config: DatasetBuildConfig, out: Path, on_ray: bool) -> dict[str, bytes]:
    """The finished files."""
    build, folder = DatasetBuild(config), BuildFolder.begin(out, config)
    told: list[tuple[str, int, int]] = []
    if on_ray:
        build_on_ray(build, folder, lambda *progress: told.append(progress))
    else:
        build.run(folder, execute_here, lambda *progress: told.append(progress))
    assert all(done <= total for _, done, total in told)
    assert told[-1][1] == told[-1][2]
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.parquet"))}


@pytest.mark.parametrize("kind", ["read", pytest.param("rendered", marks=pytest.mark.slow)])
def test_ray_builds_what_is_built_without_it(teacher: Path, tmp_path: Path, ray_instance: None, kind: str) -> None:
    made = {} if kind == "read" else {"images": {"kind": "spectral"}, "num_candidates": 110}
    config = settings(teacher, boundary_attack={"num_steps": 20, "norm": "l2", "mixup": False, "keep_originals": True}, **made)
    before = {name for name in os.environ if name.startswith("RAY_")}
    on_ray = built(config, tmp_path / "ray", on_ray=True)
    # All else would be inherited by the commands started from here.
    assert {name for name in os.environ if name.startswith("RAY_")} <= before | {*QUIET}
    assert on_ray == built(config, tmp_path / "local", on_ray=False)
    assert len(on_ray) >= 2


@dataclass(frozen=True)
class Dawdling:
    """Reads nothing; the first parts are the slowest."""

    def __call__(self, columns: Columns) -> Columns:
        span = Span.of(columns)
        time.sleep(max(0.0, 1.0 - 0.4 * span.number))
        return {"part": np.full(2, span.number), "row": np.array([span.first, span.last])}


def test_parts_come_out_in_their_order_and_whole(teacher: Path, ray_instance: None) -> None:
    whole = spans(60, 10)
    found = list(execute_on_ray(settings(teacher), Pass("reading", whole, Dawdling(), None)))
    assert [number for number, _ in found] == list(range(6))
    assert [columns["row"].tolist() for _, columns in found] == [[10 * n, 10 * n + 10] for n in range(6)]


@pytest.mark.slow
def test_a_wrong_image_far_down_is_told_in_one_sentence(teacher: Path, tmp_path: Path, ray_instance: None) -> None:
    (tmp_path / "images").mkdir()
    for number in range(60):
        shape = (8, 8, 3) if number == 55 else (8, 8)
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "images" / f"{number:02d}.png")
    config = settings(teacher, dataset={"kind": "image_folder", "path": str(tmp_path / "images")})
    with pytest.raises(DataError, match=r"55.png has 3 channels but the task's image_shape has 1"):
        built(config, tmp_path / "out", on_ray=True)


def test_more_teachers_than_the_cluster_holds_are_refused(teacher: Path, tmp_path: Path, ray_instance: None) -> None:
    config = settings(teacher)
    many = config.runtime.model_copy(update={"num_teachers": 99})
    with pytest.raises(ResourceError, match="teacher"):
        built(config.model_copy(update={"runtime": many}), tmp_path / "out", on_ray=True)
