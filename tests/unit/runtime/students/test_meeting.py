"""Checkpoints of several students: all hand in the same step, the first writes the rest, and nobody waits in silence."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from raydfkd.errors import RunFailedError, WaitTimeoutError
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.run import checkpoints
from raydfkd.pipeline.run.exchange_state import build_exchange
from raydfkd.pipeline.run.messages import NotYet
from raydfkd.run_dir import RunDir
from raydfkd.runtime.students.checkpoint_meeting import CheckpointMeeting


def experiment(**runtime: Any) -> ExperimentConfig:
    student = {"model": "x", "batch_size": 4}
    return build_experiment(
        {
            "task": {"num_classes": 2, "image_shape": [1, 4, 4]},
            "teacher": {"model": "x"},
            "sources": {"a": {"method": "fast", "batch_size": 4}},
            "replay": {"synthetic": {"capacity": 8}},
            "students": {"small": student, "large": student},
            "runtime": runtime,
        }
    )


class FakeDistiller:
    def __init__(self, mark: int) -> None:
        self.mark = mark

    def state_dict(self) -> dict[str, Any]:
        return {"mark": torch.tensor(self.mark)}


class Rig:
    """Two students' meetings over one exchange."""

    def __init__(self, path: Path, **runtime: Any) -> None:
        config = experiment(**runtime)
        self.run = RunDir.create(path)
        self.exchange = build_exchange(config)
        self.shared: list[str] = []
        self.lock = threading.Lock()
        self.meetings = {
            name: CheckpointMeeting(config, self.run, name, self.meet, lambda folder: self.shared.append(folder.name))
            for name in config.students
        }

    def meet(self, student: str, step: int) -> NotYet | None:
        with self.lock:
            return self.exchange.try_meet(student, step)

    def save(self, name: str, step: int, mark: int) -> threading.Thread:
        distiller: Any = FakeDistiller(mark)
        thread = threading.Thread(target=self.meetings[name].save, args=(step, distiller), daemon=True)
        thread.start()
        return thread

    def marks(self) -> dict[str, int]:
        folder = self.run.latest_checkpoint()
        assert folder is not None
        return {p.stem: int(torch.load(p, weights_only=True)["mark"]) for p in (folder / "students").iterdir()}


@pytest.mark.parametrize("first", ["small", "large"])
def test_a_checkpoint_is_whole_once_every_student_has_come_to_it(tmp_path: Path, first: str) -> None:
    rig = Rig(tmp_path / "run")
    other = {"small": "large", "large": "small"}[first]
    threads = [rig.save(first, 12, 1)]
    threads[0].join(0.3)
    assert threads[0].is_alive()
    assert rig.run.latest_checkpoint() is None
    threads.append(rig.save(other, 12, 2))
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert rig.shared == ["step-00000012"], "written once"
    assert rig.marks() == {first: 1, other: 2}


def test_a_student_that_comes_back_to_a_whole_checkpoint_leaves_it_as_it_is(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "run")
    for thread in [rig.save("small", 12, 1), rig.save("large", 12, 2)]:
        thread.join(60)
    rig.save("large", 12, 3).join(60)
    assert rig.marks() == {"small": 1, "large": 2}
    assert rig.shared == ["step-00000012"]


def test_nobody_waits_for_ever_and_in_silence(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "run", wait_timeout_s=0.3)
    told = "student small waited 0 s for student 'large', at step 0 to reach the checkpoint of step 12"
    with pytest.raises(WaitTimeoutError, match=told):
        rig.meetings["small"].save(12, FakeDistiller(0))  # type: ignore[arg-type]


def test_one_that_moves_is_no_standstill(tmp_path: Path) -> None:
    """The other takes four times as long as anybody may stand still, and moves on all the time."""
    rig = Rig(tmp_path / "run", wait_timeout_s=3)
    now = 0.0

    def a_second_later() -> None:
        nonlocal now
        now += 1
        rig.exchange.student_steps["large"] += 1
        if now == 12:
            checkpoints.save_student(checkpoints.folder_of(rig.run, 12), "large", FakeDistiller(2))  # type: ignore[arg-type]
            rig.meet("large", 12)

    config = experiment(wait_timeout_s=3)
    meeting = CheckpointMeeting(config, rig.run, "small", rig.meet, lambda folder: None, a_second_later, lambda: now)
    assert meeting.save(12, FakeDistiller(1)) == 12  # type: ignore[arg-type]
    assert rig.marks() == {"small": 1, "large": 2}


def test_a_run_that_fails_ends_the_wait(tmp_path: Path) -> None:
    def meet(student: str, step: int) -> NotYet | None:
        raise RunFailedError("generator a-0 failed")

    meeting = CheckpointMeeting(experiment(), RunDir.create(tmp_path / "run"), "large", meet, lambda folder: None)
    with pytest.raises(RunFailedError, match="generator a-0 failed"):
        meeting.save(12, FakeDistiller(0))  # type: ignore[arg-type]
