"""Few-shot students through Ray: the worker that trains a student does its few-shot stage, and gives the local runner's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_experiment import distil, distil_locally, events, experiment, same, student_of

from raydfkd.run_dir import RunDir


def few_shot_experiment(teacher: Path, **schedule: Any) -> dict[str, Any]:
    student = {"model": None, "pruned": {"ratio": 0.5}, "few_shot": {"kind": "fskd"}}
    tree = experiment(teacher, schedule=schedule, student=student)
    tree["collected"] = {"dataset": {"kind": "digits", "split": "train"}, "num_images": 40}
    tree["replay"]["pinned"] = {"capacity": 40}
    return tree


@pytest.mark.slow
def test_fskd_before_an_adversarial_source_gives_the_local_runners_student(
    teacher: Path, tmp_path: Path, no_actor_left: None
) -> None:
    """The source plays against the student as the stage has made it, already in the last batch of the warm-up."""
    tree = few_shot_experiment(teacher, rounds=2)
    distil_locally(tree, tmp_path / "local")
    result = distil(tree, tmp_path / "ray")
    assert same(student_of(tmp_path / "local"), student_of(tmp_path / "ray"))
    assert result["student"]["model"] == "small_cnn_8 pruned by 50%"
    assert [record["done"] for record in RunDir(tmp_path / "ray").metrics("few_shot")] == [1, 2, 3]
    assert not any("restarted" in line for line in events(tmp_path / "ray"))


@pytest.mark.slow
def test_few_shot_alone_through_ray(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    tree = few_shot_experiment(teacher, rounds=0, warmup_batches=0, batches_per_round=0)
    tree["sources"] = {}
    distil_locally(tree, tmp_path / "local")
    result = distil(tree, tmp_path / "ray")
    assert (result["student_steps"], result["images_synthesized"]) == (0, 0)
    assert same(student_of(tmp_path / "local"), student_of(tmp_path / "ray"))
