"""Condensing with Ray actors: what is made without Ray, with two workers, one of which dies; and what no cluster holds."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from raydfkd.data.condensation.condenser import Work
from raydfkd.errors import ResourceError
from raydfkd.pipeline.condensation.condense import LocalPool, condense
from raydfkd.pipeline.condensation.config import CondenseConfig
from raydfkd.pipeline.condensation.measuring import Done
from raydfkd.runtime.condensation_on_ray import RayPool, open_ray_pool

METHODS: dict[str, dict[str, Any]] = {
    "dm": {"iterations": 4, "iterations_per_round": 2},
    "dsa": {"iterations": 2, "matches": 2, "epochs": 1},
}


def settings(kind: str, on_ray: bool, **sections: Any) -> CondenseConfig:
    runtime: dict[str, Any] = {"device": "cpu"}
    if on_ray:
        runtime |= {"runner": "ray", "num_workers": 2, "resources": {"num_cpus": 0.5}, "wait_timeout_s": 300}
    tree: dict[str, Any] = {
        "dataset": {"kind": "digits", "split": "train", "max_images": 200},
        "images_per_class": 2,
        "network": "conv_net_1",
        "method": {"kind": kind, "real_batch_size": 8, **METHODS[kind]},
        "runtime": runtime,
        **sections,
    }
    return CondenseConfig.model_validate(tree)


def test_two_workers_make_what_one_process_makes_though_one_dies(
    ray_instance: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    plain = RayPool.__call__

    def with_a_death(self: RayPool, tasks: list[Work]) -> list[Done]:
        if not killed and tasks[0].name == "match" and len(tasks) == 2:
            killed.append(ray.get(self._actors[1].__ray_call__.remote(lambda self: os.getpid()), timeout=60))
            os.kill(killed[0], signal.SIGKILL)
        return plain(self, tasks)

    monkeypatch.setattr(RayPool, "__call__", with_a_death)
    for kind in METHODS:
        here = condense(settings(kind, on_ray=False), tmp_path / f"{kind}_here.parquet", LocalPool).found
        there = condense(settings(kind, on_ray=True), tmp_path / f"{kind}_there.parquet", open_ray_pool).found
        np.testing.assert_array_equal(here.images, there.images)
    assert killed


def test_what_no_cluster_holds_is_refused_before_anything_is_begun(ray_instance: None, tmp_path: Path) -> None:
    tree = settings("dm", on_ray=True).model_dump()
    tree["runtime"]["resources"]["num_cpus"] = 500
    with pytest.raises(ResourceError, match="condensation worker 0"):
        condense(CondenseConfig.model_validate(tree), tmp_path / "x.parquet", open_ray_pool)
    assert list(tmp_path.iterdir()) == []
