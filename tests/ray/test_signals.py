"""SIGTERM ends a run on Ray as ``raydfkd stop`` does, also where every process of Ray's gets it, as from a batch system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import processes_under
from tiny_experiment import GATED, distil, experiment

from raydfkd.pipeline.experiment.config import build_experiment
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.run_dir import RunDir
from raydfkd.testing.waiting import wait_until

pytestmark = pytest.mark.slow

LONGEST_S = 300


@pytest.mark.parametrize("also_ray", [False, True], ids=["the driver alone", "every process"])
def test_a_signal_stops_the_run_which_then_resumes(
    also_ray: bool, teacher: Path, tmp_path: Path, gate: Callable[[float], None], no_actor_left: None
) -> None:
    tree = experiment(teacher, student=GATED, runtime={"num_cpus": 4})
    file, out = tmp_path / "experiment.yaml", tmp_path / "run"
    file.write_text(dump_yaml(build_experiment(tree)))
    gate(14)
    command = [sys.executable, "-m", "raydfkd", "run", str(file), "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_until((out / "checkpoints" / "latest.json").exists, LONGEST_S, "no checkpoint was written")
        others = processes_under(driver.pid) if also_ray else []
        for pid in (driver.pid, *others):
            os.kill(pid, signal.SIGTERM)
        gate(float("inf"))
        _, told = driver.communicate(timeout=LONGEST_S)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == 3, told
    assert "resume it with: raydfkd run" in told
    assert RunDir(out).manifest()["state"] == "stopped"
    if also_ray:  # the case in which more could have been lost
        assert distil(tree, out, resume=True)["student_steps"] == 6 * 4
