"""How many trials fit: from two CPUs to sixty-four GPUs, and never so many that students and generators starve each other."""

from __future__ import annotations

from typing import Any

import pytest

from raydfkd.pipeline.experiment.config import build_experiment
from raydfkd.runtime.sweeps.sweep_concurrency import most_at_once, trial_bundles, trial_demands

MANY = 1000
GPU_NODE = {"CPU": 64.0, "GPU": 8.0}


def experiment(runner: str, source: dict[str, Any] | None = None, student: dict[str, Any] | None = None, **more: Any) -> Any:
    tree = {
        "task": {"num_classes": 10, "image_shape": [1, 8, 8]},
        "teacher": {"model": "small_cnn_8"},
        "sources": {"a": {"method": "fast", "batch_size": 16, "resources": source or {}, **more}},
        "replay": {"synthetic": {"capacity": 64}},
        "students": {"s": {"model": "small_cnn_4", "batch_size": 16, "resources": student or {}}},
        "runtime": {"runner": runner},
    }
    return build_experiment(tree)


def test_a_local_trial_takes_what_its_larger_part_takes() -> None:
    config = experiment("local", {"num_cpus": 2}, {"num_cpus": 1, "num_gpus": 0.5})
    assert trial_demands(config) == [("trial", {"CPU": 2.0, "GPU": 0.5})]
    assert trial_bundles(config) == [{"CPU": 2.0, "GPU": 0.5}]


def test_a_ray_trial_s_group_holds_its_generators_and_not_its_students() -> None:
    config = experiment("ray", {"num_cpus": 0.5, "num_gpus": 0.25}, {"num_gpus": 1}, num_generators=2)
    assert trial_bundles(config) == [{}, {"CPU": 0.5, "GPU": 0.25}, {"CPU": 0.5, "GPU": 0.25}]
    assert [name for name, _ in trial_demands(config)] == ["generator a-0", "generator a-1", "student worker 0"]


@pytest.mark.parametrize(
    ("config", "nodes", "expected"),
    [
        (experiment("local"), [{"CPU": 2.0}], 2),
        (experiment("local", {"num_cpus": 2}), [{"CPU": 2.0}], 1),
        (experiment("ray"), [{"CPU": 2.0}], 1),  # a generator and a student: Tune alone would start two trials and hang
        (experiment("ray"), [{"CPU": 8.0}], 4),
        (experiment("ray", num_generators=3), [{"CPU": 8.0}], 2),
        (experiment("ray", {"num_gpus": 0.5}, {"num_gpus": 0.5}), [GPU_NODE] * 8, 64),
        (experiment("ray", {"num_gpus": 1}, {"num_gpus": 1}, num_generators=3), [GPU_NODE] * 8, 16),
        (experiment("ray", {"num_gpus": 1}, {"num_gpus": 1}), [{"CPU": 8.0, "GPU": 1.0}], 0),
        (experiment("ray", {"custom": {"gen": 1}}), [{"CPU": 8.0, "gen": 3.0}, {"CPU": 8.0}], 3),
    ],
)
def test_as_many_as_the_nodes_hold(config: Any, nodes: list[dict[str, float]], expected: int) -> None:
    before = [dict(node) for node in nodes]
    assert most_at_once(trial_demands(config), nodes, MANY) == expected
    assert nodes == before


def test_never_more_than_asked_for() -> None:
    assert most_at_once(trial_demands(experiment("local")), [{"CPU": 64.0}], 3) == 3
