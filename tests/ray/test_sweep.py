"""Sweeps through Ray Tune: a trial that crashes, trials that are stopped early, copied, and a driver that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_driver_killed import alive, processes_under
from tiny_experiment import GATED, experiment

import raydfkd
from raydfkd.errors import ResourceError
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.pipeline.sweep.sweep_result import SweepWatcher
from raydfkd.sweep_dir import SweepDir
from raydfkd.testing.waiting import wait_until

LR, MODEL = "students.small.optimizer.lr", "students.small.model"
CRASHING = "raydfkd.testing.faulty_networks:student_that_exits"

DRIVER = """
import sys
import raydfkd
raydfkd.sweep(sys.argv[1], out=sys.argv[2])
"""


class Noted(SweepWatcher):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.concurrent = 0
        self.states: list[tuple[str, str]] = []

    def begin(self, num_trials: int, concurrent: int) -> None:
        self.concurrent = concurrent

    def update(self, trial: str, **values: Any) -> None:
        if "state" in values:
            self.states.append((trial, values["state"]))


def write(folder: Path, teacher: Path, tree: dict[str, Any] | None = None, **sections: Any) -> Path:
    """A sweep of the tiny experiment, six rounds of four steps, measured after each round."""
    local = {"runner": "local"} if tree is None else {}
    (folder / "exp.yaml").write_text(yaml.safe_dump(experiment(teacher, runtime=local) if tree is None else tree))
    settings = {
        "experiment": "exp.yaml",
        "objective": {"num_images": 64, "period_steps": 4},
        "runtime": {"num_cpus": 2},
        **sections,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.slow
def test_a_trial_that_crashes_does_not_end_the_sweep(ray_instance: None, teacher: Path, tmp_path: Path) -> None:
    space = {
        MODEL: {"kind": "grid", "values": ["small_cnn_4", CRASHING, "raydfkd.testing.faulty_networks:student_that_refuses"]}
    }
    watcher = Noted()
    path = write(tmp_path, teacher, space=space)
    done = raydfkd.sweep(path, out=tmp_path / "out", overrides=["runtime.max_concurrent_trials=2"], watcher=watcher)
    good, crashed, refused = done.result["trials"]
    assert [trial["state"] for trial in done.result["trials"]] == ["finished", "failed", "failed"]
    assert "its process died" in crashed["error"]
    assert refused["error"] == "these images are not what this student takes: give it others"
    assert (good["student_steps"], done.result["best"]) == (24, good["name"])
    assert done.best is not None
    assert load_experiment(done.best).student.model == "small_cnn_4"
    assert watcher.concurrent == 2
    assert sorted(state for _, state in watcher.states) == ["failed", "failed", "finished", "running", "running", "running"]
    assert "its process died" in done.report.read_text()
    assert SweepDir(tmp_path / "out").manifest()["state"] == "finished"


@pytest.mark.slow
def test_asha_stops_trials_that_lag_at_a_rung(ray_instance: None, teacher: Path, tmp_path: Path) -> None:
    """One at a time from the best to the worst learning rate; each later one lags and is stopped at the first rung."""
    sections = {
        "space": {LR: {"kind": "grid", "values": [0.05, 1e-9, 1e-9]}},
        "scheduler": {"kind": "asha", "grace_period_steps": 8, "reduction_factor": 2},
        "objective": {"kind": "kl", "student": "last", "num_images": 64},
    }
    path = write(tmp_path, teacher, **sections)
    done = raydfkd.sweep(path, out=tmp_path / "out", overrides=["runtime.max_concurrent_trials=1"])
    states = [(trial["state"], trial["student_steps"]) for trial in done.result["trials"]]
    assert states[0] == ("finished", 24)
    assert ("stopped", 8) in states[1:]
    assert done.result["best"] == done.result["trials"][0]["name"]
    stopped = next(trial for trial in SweepDir(tmp_path / "out").trials() if trial.state == "stopped")
    manifest = json.loads((tmp_path / "out" / "trials" / stopped.name / "manifest.json").read_text())
    assert manifest["error"] == "stopped by the sweep at student step 8"


@pytest.mark.slow
def test_population_based_training_goes_on_from_a_leader_s_checkpoint(
    ray_instance: None, teacher: Path, gate: Callable[[float], None], tmp_path: Path
) -> None:
    """Neither gets more than 16 steps ahead, so that it is known who leads, and from which checkpoint to go on."""

    class SideBySide(SweepWatcher):
        def __init__(self) -> None:
            self.steps: dict[str, int] = {}

        def update(self, trial: str, **values: Any) -> None:
            self.steps[trial] = max(self.steps.get(trial, 0), values.get("step") or 0)
            if len(self.steps) == 2:
                gate(min(self.steps.values()) + 16)

    gate(16)
    sections = {
        "space": {LR: {"kind": "grid", "values": [0.05, 1e-9]}},
        "scheduler": {"kind": "pbt", "perturbation_interval_steps": 8, "mutable": [LR], "quantile_fraction": 0.5,
                      "resample_probability": 0.0},
        "objective": {"kind": "kl", "student": "last", "num_images": 64},
    }  # fmt: skip
    sections["overrides"] = {"schedule": {"rounds": 8}}
    path = write(tmp_path, teacher, experiment(teacher, runtime={"runner": "local"}, student=GATED), **sections)
    done = raydfkd.sweep(path, out=tmp_path / "out", watcher=SideBySide())
    assert [trial["state"] for trial in done.result["trials"]] == ["finished", "finished"]
    copies = [copy for trial in SweepDir(tmp_path / "out").trials() for copy in trial.copied]
    assert copies
    assert all(copy["settings"][LR] in (0.05, 1e-9) for copy in copies)


@pytest.mark.slow
def test_optuna_chooses_the_settings(ray_instance: None, teacher: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = {LR: {"kind": "log_uniform", "low": 0.001, "high": 0.1}, MODEL: {"kind": "choice", "values": ["small_cnn_4"]}}
    path = write(tmp_path, teacher, space=space, search={"kind": "optuna", "num_trials": 2, "seed": 1})
    done = raydfkd.sweep(path, out=tmp_path / "out", overrides=["overrides.schedule.rounds=2"])
    assert [trial["state"] for trial in done.result["trials"]] == ["finished", "finished"]
    rates = [trial["settings"][LR] for trial in done.result["trials"]]
    assert all(0.001 <= rate <= 0.1 for rate in rates)
    assert len(set(rates)) == 2


@pytest.mark.slow
def test_a_trial_with_the_ray_runner_has_its_actors_beside_it(
    ray_instance: None, teacher: Path, tmp_path: Path, no_actor_left: None
) -> None:
    """A generator and a student with four CPUs each fill the eight exactly: nothing is reserved twice."""
    four = {"resources": {"num_cpus": 4, "num_threads": 1}}
    schedule = {"warmup_batches": 4, "rounds": 2, "student_steps_per_round": 4}
    tree = experiment(teacher, source=four, student=four, schedule=schedule, runtime={"wait_timeout_s": 300})
    path = write(tmp_path, teacher, tree, space={LR: {"kind": "grid", "values": [0.05]}})
    done = raydfkd.sweep(path, out=tmp_path / "out")
    assert [(trial["state"], trial["student_steps"]) for trial in done.result["trials"]] == [("finished", 8)]


def test_a_cluster_without_room_for_one_trial_is_refused_before_anything_starts(
    ray_instance: None, teacher: Path, tmp_path: Path
) -> None:
    sections = {"space": {LR: {"kind": "grid", "values": [0.05]}}}
    sections["overrides"] = {"students": {"small": {"resources": {"num_cpus": 100}}}}
    with pytest.raises(ResourceError, match="trial cannot be placed: the run needs 100 CPU and the cluster has 8 CPU"):
        raydfkd.sweep(write(tmp_path, teacher, **sections), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_driver_s_sweep_goes_on(
    ray_instance: None, teacher: Path, tmp_path: Path, gate: Callable[[float], None]
) -> None:
    """Killed while the first trial of two stands after a checkpoint; its run goes on from there."""
    tree = experiment(teacher, student=GATED, runtime={"runner": "local"})
    path = write(tmp_path, teacher, tree, space={LR: {"kind": "grid", "values": [0.05, 0.02]}})
    out = tmp_path / "out"
    gate(14)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(path), str(out)], start_new_session=True)
    try:
        pointers = lambda: list(out.glob("trials/*/checkpoints/latest.json"))  # noqa: E731
        wait_until(lambda: len(pointers()) == 2, 300, "no trial wrote a checkpoint")
        descendants = processes_under(driver.pid)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    wait_until(lambda: not any(map(alive, descendants)), 300, "processes of the killed driver live on")
    gate(float("inf"))
    done = raydfkd.sweep(out, resume=True)
    assert [(trial["state"], trial["student_steps"]) for trial in done.result["trials"]] == [("finished", 24)] * 2
    events = [
        json.loads(line)["message"]
        for trial in sorted((out / "trials").iterdir())
        for line in (trial / "metrics.jsonl").read_text().splitlines()
        if json.loads(line)["kind"] == "event"
    ]
    assert events == ["resumed from step-00000008"] * 2
    with pytest.raises(raydfkd.RaydfkdError, match="holds a finished sweep: there is nothing to resume"):
        raydfkd.sweep(out, resume=True)
