"""Runs that learn from collected images, through Ray."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_experiment import BATCH_SIZE, LiveRun, distil, distil_locally, events, experiment, same, student_of

from raydfkd.pipeline.experiment.builder import build_distiller
from raydfkd.pipeline.experiment.config import build_experiment
from raydfkd.run_dir import RunDir
from raydfkd.testing.waiting import wait_until

GAN = {
    "method": "hidfd",
    "batch_size": BATCH_SIZE,
    "pretrain_steps": 6,
    "gan_batch_size": 8,
    "latent_dim": 4,
    "generator_channels": 1,
    "discriminator_channels": 1,
    "resources": {"num_cpus": 1, "num_threads": 1},
}


def hidfd_experiment(teacher: Path, **schedule: Any) -> dict[str, Any]:
    tree = experiment(teacher, schedule=schedule, student={"objective": {"kind": "classifier_sharing"}})
    tree["sources"] = {"gan": dict(GAN)}
    tree["collected"] = {"dataset": {"kind": "digits", "split": "train"}, "num_images": 40}
    tree["replay"]["pinned"] = {"capacity": 40}
    return tree


def test_hidfd_through_ray_gives_the_local_runners_student(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    tree = hidfd_experiment(teacher, batches_per_round=0)
    distil_locally(tree, tmp_path / "local")
    result = distil(tree, tmp_path / "ray")
    assert same(student_of(tmp_path / "local"), student_of(tmp_path / "ray"))
    assert result["images_synthesized"] == 4 * BATCH_SIZE
    assert not any("restarted" in line for line in events(tmp_path / "ray"))
    run = RunDir(tmp_path / "ray")
    assert next(iter(run.metrics("preparation")))["total"] == 6
    assert list(run.metrics("replay"))[-1]["tables"]["pinned"]["size"] == 40


ALIGNED: dict[str, dict[str, Any]] = {
    "cmi": {
        "base_channels": 8,
        "latent_dim": 16,
        "crop_padding": 1,
        "flip": False,
        "steps_per_batch": 3,
        "projected_dim": 8,
        "bank_size": 64,
        "num_negatives": 32,
    },
    "predfkd": {"generator_batch_size": 16, "base_channels": 4, "latent_dim": 8},
}
"""Methods with feature alignment that no other test runs through Ray."""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cmi", "predfkd"])
def test_alignment_through_ray_gives_the_local_runners_student(
    method: str, teacher: Path, tmp_path: Path, no_actor_left: None
) -> None:
    tree = hidfd_experiment(teacher)
    tree["students"]["small"]["objective"] = {"kind": "l1"}
    tree["collected"] |= {"labels": "dataset", "balanced": True}
    tree["sources"] = {"made": {"method": method, "feature_alignment": {}, **ALIGNED[method]}}
    tree["sources"]["made"] |= {key: GAN[key] for key in ("batch_size", "resources")}
    distil_locally(tree, tmp_path / "local")
    result = distil(tree, tmp_path / "ray")
    assert result["method"] == method
    assert same(student_of(tmp_path / "local"), student_of(tmp_path / "ray"))
    assert all("alignment_loss" in record for record in RunDir(tmp_path / "ray").metrics("synthesis"))


@pytest.mark.slow
def test_two_gans_stream_into_one_buffer_while_the_student_trains(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    tree = hidfd_experiment(teacher, mode="decoupled", samples_per_insert=1, error_buffer=200)
    tree["sources"]["gan"] |= {"num_generators": 2, "steps_per_batch": 1, "resources": {"num_cpus": 0.5, "num_threads": 1}}
    result = distil(tree, tmp_path / "run")
    assert result["student_steps"] == 24
    made = list(RunDir(tmp_path / "run").metrics("synthesis"))
    assert {record["generator_id"] for record in made} == {"gan-0", "gan-1"}
    assert all("generator_loss" in record for record in made)


@pytest.mark.slow
def test_collected_images_alone_through_ray(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    tree = hidfd_experiment(teacher, batches_per_round=0, warmup_batches=0)
    tree["sources"] = {}
    distil_locally(tree, tmp_path / "local")
    result = distil(tree, tmp_path / "ray")
    assert (result["method"], result["images_synthesized"]) == ("collected", 0)
    assert same(student_of(tmp_path / "local"), student_of(tmp_path / "ray"))


@pytest.mark.slow
def test_two_workers_train_an_objective_that_has_parameters(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    tree = hidfd_experiment(teacher, batches_per_round=0, warmup_batches=0, rounds=2)
    tree["sources"] = {}
    tree["students"]["small"] |= {"objective": {"kind": "semckd"}, "num_workers": 2}
    result = distil(tree, tmp_path / "run")
    assert result["student_steps"] == 8
    fresh = _trained_beside_the_student(build_distiller(build_experiment(tree), torch.device("cpu")).state_dict())
    again = _trained_beside_the_student(build_distiller(build_experiment(tree), torch.device("cpu")).state_dict())
    checkpoint = RunDir(tmp_path / "run").latest_checkpoint()
    assert checkpoint is not None
    trained = _trained_beside_the_student(torch.load(checkpoint / "students/small.pt", weights_only=True))
    assert fresh.keys() == trained.keys()
    assert all(torch.equal(fresh[name], again[name]) for name in fresh)
    assert not all(torch.equal(fresh[name], trained[name]) for name in fresh)


def _trained_beside_the_student(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    projector = {name: value for name, value in state["student"].items() if "projector" in name}
    weights = {**state["objective"], **projector}
    assert weights
    return weights


@pytest.mark.slow
def test_a_gan_killed_in_its_preparation_goes_on_from_its_state(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    tree = hidfd_experiment(teacher, batches_per_round=0, rounds=1)
    tree["sources"]["gan"] |= {"pretrain_steps": 900}  # several slices of hidfd.SLICE_S, between which its state is to be had
    tree["runtime"]["snapshot_period_s"] = 0.5
    live = LiveRun(tree, tmp_path / "run")
    kept = live.run.preparation / "generators" / "gan-0.pt"
    told = live.run.metrics_path
    wait_until(
        lambda: live.ended or (kept.exists() and '"preparation"' in told.read_text()),
        300,
        "no state of the preparation was kept",
    )
    prepared = max(record["done"] for record in live.run.metrics("preparation"))
    os.kill(live.ask("pool", "pids")["gan-0"], signal.SIGKILL)
    result = live.result(300)
    (line,) = [line for line in events(live.run.path) if "restarted" in line]
    assert line.startswith("generator gan-0 died and was restarted from its state of ")
    steps = [record["done"] for record in live.run.metrics("preparation")]
    assert all(done > prepared for done in steps[steps.index(prepared) + 1 :]), "what it had learnt was lost"
    assert steps[-1] == 900
    assert (result["restarts"], result["images_synthesized"]) == (1, 4 * BATCH_SIZE)
    assert not live.run.preparation.exists()
