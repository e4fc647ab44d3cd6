"""A run that cannot go on fails with one sentence, the first error's, and leaves nothing behind."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest
from tiny_experiment import LiveRun, distil, events, experiment

from raydfkd.errors import DataError, ResourceError, RunFailedError
from raydfkd.run_dir import RunDir
from raydfkd.testing.waiting import wait_until

FAULTY = "raydfkd.testing.faulty_networks"

pytestmark = pytest.mark.usefixtures("no_actor_left")


def test_a_bug_in_a_generator_fails_the_run_with_its_traceback(
    teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = experiment(teacher, teacher={"model": f"{FAULTY}:teacher_with_a_bug"})
    with (
        caplog.at_level(logging.ERROR, logger="raydfkd"),
        pytest.raises(RunFailedError, match=r"^generator inversion-0 failed with ZeroDivisionError: this teacher has a bug$"),
    ):
        distil(tree, tmp_path / "run")
    assert "faulty_networks.py" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    manifest = RunDir(tmp_path / "run").manifest()
    assert manifest["state"] == "failed"
    assert "this teacher has a bug" in manifest["error"]
    assert events(tmp_path / "run") == [], "a bug is not a death: nothing is restarted for it"


@pytest.mark.slow
def test_a_users_mistake_found_by_the_student_workers_is_told_as_it_is(teacher: Path, tmp_path: Path) -> None:
    tree = experiment(teacher, student={"model": f"{FAULTY}:student_that_refuses", "num_workers": 2})
    with pytest.raises(DataError, match=r"^these images are not what this student takes: give it others$"):
        distil(tree, tmp_path / "run")
    assert events(tmp_path / "run") == [], "what would only happen again is not tried again"


@pytest.mark.slow
def test_a_generator_that_dies_too_often_fails_the_run(teacher: Path, tmp_path: Path) -> None:
    tree = experiment(teacher, schedule={"rounds": 2000}, runtime={"max_restarts": 0})
    live = LiveRun(tree, tmp_path / "run")
    wait_until(lambda: (live.ask("pool", "pids") or {}).get("inversion-0"), 300, "the generator has not started")
    os.kill(live.ask("pool", "pids")["inversion-0"], signal.SIGKILL)
    with pytest.raises(RunFailedError, match=r"^generator inversion-0 died 1 times, .* runtime\.max_restarts 0$"):
        live.result(300)


def test_what_the_cluster_cannot_place_is_refused_before_anything_starts(teacher: Path, tmp_path: Path) -> None:
    too_much = experiment(teacher, source={"resources": {"num_gpus": 1}})
    with pytest.raises(
        ResourceError, match=r"^generator inversion-0 cannot be placed: .* needs 1 GPU and the cluster has 0 GPU"
    ):
        distil(too_much, tmp_path / "run")
    assert not (tmp_path / "run").exists(), "a refused run leaves nothing that would block the corrected one"
