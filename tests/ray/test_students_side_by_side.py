"""Two students under Ray: as the local runner in lockstep, and each with a group of its own that alone pays for its deaths."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import load_file
from tiny_experiment import BATCH_SIZE, GATED, LiveRun, distil, distil_locally, events, experiment, same

from raydfkd.run_dir import RunDir
from raydfkd.testing.waiting import wait_until


def two_students(teacher: Path, **sections: Any) -> dict[str, Any]:
    """A second student of other size, objective and batch; ``other`` and ``small`` replace settings of one."""
    other, small = sections.pop("other", {}), sections.pop("small", {})
    sections["runtime"] = {"wait_timeout_s": 300, **sections.get("runtime", {})}  # five processes start at once
    tree = experiment(teacher, student=small, **sections)
    tree["students"]["other"] = {
        **tree["students"]["small"],
        "model": "small_cnn_8",
        "batch_size": BATCH_SIZE // 2,
        "objective": {"kind": "classifier_sharing"},
        **other,
    }
    return tree


def weights(run_dir: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.stem: load_file(path) for path in sorted(run_dir.glob("student*.safetensors"))}


def test_in_lockstep_both_are_the_local_runners_to_the_bit(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    """With two generators, and each batch's images sent."""
    tree = two_students(
        teacher,
        source={"num_generators": 2},
        schedule={"rounds": 4, "batches_per_round": 2},
        runtime={"delivery": "gather"},
    )
    local, through_ray = distil_locally(tree, tmp_path / "local"), distil(tree, tmp_path / "ray")
    one, other = weights(tmp_path / "local"), weights(tmp_path / "ray")
    assert sorted(one) == sorted(other) == ["student", "student-other", "student_ema", "student_ema-other"]
    assert all(same(one[file], other[file]) for file in one)
    counts = ("images_synthesized", "images_distilled", "student_steps", "class_entropy", "restarts", "students")
    assert [through_ray[name] for name in counts] == [local[name] for name in counts]
    assert events(tmp_path / "ray") == []
    folder = RunDir(tmp_path / "ray").latest_checkpoint()
    assert folder is not None
    assert sorted(path.stem for path in (folder / "students").iterdir()) == ["other", "small"]


@pytest.mark.slow
def test_a_dead_worker_takes_only_its_own_student_back(
    teacher: Path, tmp_path: Path, gate: Callable[[float], None], no_actor_left: None
) -> None:
    rounds = 12
    tree = two_students(
        teacher,
        small={**GATED, "num_workers": 2},
        schedule={"mode": "decoupled", "rounds": rounds},
        runtime={"checkpoint_period_rounds": 5, "log_period_steps": 1},
    )
    gate(22)
    live = LiveRun(tree, tmp_path / "run")
    run = RunDir(tmp_path / "run")

    def step_of(student: str) -> int:
        return max((r["step"] for r in run.metrics("distillation") if r["student"] == student), default=0)

    wait_until(lambda: live.ended or step_of("other") >= 30, 240, "the other student does not run ahead to its checkpoint")
    assert 20 <= step_of("small") <= 22
    pids = pids_of(live, "small", "other")
    gate(float("inf"))
    os.kill(pids["small"], signal.SIGKILL)
    result = live.result(300)
    [line] = events(live.run.path)
    assert line == "student small workers were restarted from step 20"
    assert result["restarts"] == 1
    assert {name: student["student_steps"] for name, student in result["students"].items()} == dict.fromkeys(
        ("small", "other"), rounds * 4
    )
    steps = [r["step"] for r in run.metrics("distillation") if r["student"] == "other"]
    assert steps == list(range(1, rounds * 4 + 1)), "no step of the other was done twice"


def pids_of(live: LiveRun, *students: str) -> dict[str, int]:
    coordinator = ray.get_actor(f"{live.run.manifest()['actors']}/coordinator")
    return {name: ray.get(coordinator.student_pids.remote(name))[0] for name in students}
