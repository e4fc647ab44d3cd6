"""Kill -9 of the driver. What it started dies with it, and the run goes on from its checkpoint as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import alive, processes_under
from tiny_experiment import GATED, distil, distil_locally, events, experiment, same, student_of

from raydfkd.testing.waiting import wait_until

pytestmark = pytest.mark.slow

DRIVER = """
import json, sys
import torch
torch.set_num_threads(1)
import raydfkd
raydfkd.distill(json.loads(sys.argv[1]), out=sys.argv[2])
"""


def test_a_killed_drivers_run_resumes_to_the_same_student(
    teacher: Path, tmp_path: Path, gate: Callable[[float], None], no_actor_left: None
) -> None:
    tree = experiment(teacher, student=GATED, runtime={"num_cpus": 4})
    out = tmp_path / "run"
    gate(14)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(tree), str(out)], start_new_session=True, stdout=subprocess.DEVNULL
    )
    try:
        wait_until((out / "checkpoints" / "latest.json").exists, 300, "no checkpoint was written")
        descendants = processes_under(driver.pid)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert len(descendants) > 5
    wait_until(lambda: not any(map(alive, descendants)), 300, "processes of the killed driver live on")

    gate(float("inf"))
    result = distil(tree, out, resume=True)
    distil_locally(tree, tmp_path / "unbroken")
    assert same(student_of(out), student_of(tmp_path / "unbroken"))
    assert events(out) == ["resumed from step-00000008"]
    assert result["student_steps"] == 6 * 4
