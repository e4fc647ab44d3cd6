"""Checkpoint folders: complete or not there, and damaged files told in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raydfkd.distillation.config import StudentConfig
from raydfkd.distillation.distiller import Distiller
from raydfkd.errors import CheckpointError
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.pipeline.run import checkpoints
from raydfkd.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run")


class Stateful:
    """What ``load_generator`` needs of a synthesizer."""

    def __init__(self) -> None:
        self.state: Any = None

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def distiller() -> Distiller:
    teacher = FrozenTeacher(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), 3, (1, 4, 4), (0.0,), (1.0,))
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return Distiller(StudentConfig(model="x", batch_size=4), teacher, student, 10, torch.device("cpu"), bf16=False)


def begin_and_stop(run: RunDir, step: int) -> None:
    with checkpoints.writing(run, step) as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt


def test_a_checkpoint_counts_once_it_is_whole(run: RunDir) -> None:
    with checkpoints.writing(run, 12) as folder:
        assert folder.name == "step-00000012"
        (folder / "x").write_text("x")
        assert run.latest_checkpoint() is None
    assert run.latest_checkpoint() == folder


def test_one_that_breaks_off_leaves_the_older_the_latest(run: RunDir) -> None:
    with checkpoints.writing(run, 1) as first:
        pass
    with pytest.raises(KeyboardInterrupt):
        begin_and_stop(run, 2)
    assert run.latest_checkpoint() == first
    with checkpoints.writing(run, 2) as folder:
        assert not (folder / "half").exists(), "it begins afresh"
    assert run.latest_checkpoint() == folder


def test_student_and_generators_come_back(run: RunDir) -> None:
    one, other = distiller(), distiller()
    one.step(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.ones(4))
    with checkpoints.writing(run, 1) as folder:
        checkpoints.save_student(folder, "small", one)
        checkpoints.save_generator(folder, "inversion-0", {"a": torch.arange(3), "was_reset": True})
    checkpoints.load_student(folder, "small", other)
    assert other.num_steps == 1
    assert torch.equal(other.student[1].weight, one.student[1].weight)
    known, new = Stateful(), Stateful()
    assert checkpoints.load_generator(folder, "inversion-0", known)
    assert known.state["a"].tolist() == [0, 1, 2]
    assert not checkpoints.load_generator(folder, "inversion-1", new)
    assert new.state is None


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "missing", "code"])
def test_a_damaged_file_is_one_sentence(run: RunDir, damage: str) -> None:
    with checkpoints.writing(run, 1) as folder:
        checkpoints.save_student(folder, "small", distiller())
    path = folder / "students" / "small.pt"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "code":
        torch.save({"student": Stateful()}, path)
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "garbage": b"not a checkpoint", "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=r"small\.pt cannot be read .*remove that checkpoint") as caught:
        checkpoints.load_student(folder, "small", distiller())
    assert "\n" not in str(caught.value)


def test_steps_done_are_the_newest_checkpoints(tmp_path: Path) -> None:
    directory = RunDir.create(tmp_path / "run")
    assert checkpoints.steps_done(directory) == 0
    folder = directory.checkpoints / "step-00000024"
    folder.mkdir()
    directory.commit_checkpoint(folder)
    assert checkpoints.steps_done(directory) == 24
