"""The Ray runner in lockstep is the local runner, spread over processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_experiment import BATCH_SIZE, distil, distil_locally, events, experiment, same, student_of

from raydfkd.run_dir import RunDir


def test_the_ray_runner_gives_the_local_runners_student_to_the_bit(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    tree = experiment(teacher)
    local, through_ray = distil_locally(tree, tmp_path / "local"), distil(tree, tmp_path / "ray")
    assert same(student_of(tmp_path / "local"), student_of(tmp_path / "ray"))
    counts = ("images_synthesized", "images_distilled", "student_steps", "class_entropy", "restarts")
    assert [through_ray[name] for name in counts] == [local[name] for name in counts]
    assert through_ray["images_synthesized"] == (4 + 6) * BATCH_SIZE
    assert events(tmp_path / "ray") == []
    assert RunDir(tmp_path / "ray").manifest()["state"] == "finished"


@pytest.mark.slow
def test_a_rounds_draws_in_one_request_give_it_too(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    tree = experiment(teacher)
    tree["replay"]["synthetic"]["sampler"] = {"kind": "class_balanced"}
    distil_locally(tree, tmp_path / "local")
    distil(tree, tmp_path / "ray")
    assert same(student_of(tmp_path / "local"), student_of(tmp_path / "ray"))


@pytest.mark.slow
def test_two_generators_and_gathered_delivery_give_it_too(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    tree = experiment(
        teacher,
        source={"num_generators": 2},
        schedule={"batches_per_round": 2},
        runtime={"delivery": "gather"},
    )
    distil_locally(tree, tmp_path / "local")
    distil(tree, tmp_path / "ray")
    assert same(student_of(tmp_path / "local"), student_of(tmp_path / "ray"))
