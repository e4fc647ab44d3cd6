"""What writes into a folder or a file owns it: runs, resumed runs, sweeps, data sets, teachers and rows of papers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import At, experiment

from raydfkd import ownership
from raydfkd.api import build_dataset, distill, sweep
from raydfkd.data.fetching.fetch import fetch
from raydfkd.errors import RunDirError, RunInUseError, RunTakenOverError
from raydfkd.ownership import owned, owner_of
from raydfkd.pipeline.teacher.config import TeacherTrainingConfig
from raydfkd.pipeline.teacher.training import train_teacher
from raydfkd.run_dir import RunDir


@pytest.fixture
def file(teacher: Path, tmp_path: Path) -> Path:
    path = tmp_path / "exp.yaml"
    path.write_text(yaml.safe_dump(experiment(teacher)))
    return path


def while_owned(folder: Path, call: Callable[[], Any], name: str = "") -> str:
    """How ``call`` is refused while another thread owns the folder, or the file ``name`` in it."""
    owns, ends = threading.Event(), threading.Event()

    def own() -> None:
        with owned(folder, name, what="it"):
            owns.set()
            ends.wait()

    thread = threading.Thread(target=own)
    thread.start()
    owns.wait()
    before = sorted(folder.rglob("*"))
    try:
        with pytest.raises(RunInUseError) as raised:
            call()
        assert sorted(folder.rglob("*")) == before, "nothing of the owner's was touched"
    finally:
        ends.set()
        thread.join()
    return str(raised.value)


def test_a_second_run_and_a_resume_are_refused_while_the_run_lives(file: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "run", []

    def meanwhile() -> None:
        for resume in (False, True):
            error: list[BaseException] = []
            thread = threading.Thread(target=lambda r=resume, e=error: e.append(_refusal(file, out, r)))
            thread.start()
            thread.join()
            told.append(str(error[0]))

    result = distill(file, out=out, watcher=At(lambda record: record["kind"] == "distillation", meanwhile))
    assert len(told) == 2
    for sentence in told:
        assert sentence.startswith(f"run directory {out} is in use by process ")
        assert f"raydfkd stop {out}" in sentence
        assert f"raydfkd run {out} --resume" in sentence
        assert "remove" not in sentence
        assert "delete" not in sentence
    assert result.result["student_steps"] == 8
    assert owner_of(out) is None


def _refusal(file: Path, out: Path, resume: bool) -> BaseException:
    try:
        distill(file, out=out, resume=resume)
    except RunDirError as error:
        return error
    raise AssertionError("it ran")


def test_a_run_that_was_taken_over_ends_and_leaves_the_directory_to_the_other(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def taken() -> None:
        held = next(iter(ownership._HELD.values()))
        (out / ".owner-2").write_text("")
        held.taken_by = "process 1 on host other"

    with pytest.raises(RunTakenOverError, match="taken over by process 1 on host other"):
        distill(file, out=out, watcher=At(lambda record: record["kind"] == "distillation", taken))
    assert RunDir(out).manifest()["state"] == "running", "as the other process has it"
    assert (out / ".owner-2").exists()


def test_a_refused_run_leaves_no_folder(file: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="evaluation"):
        distill(file, overrides=["evaluation.dataset.split=nowhere"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RunDirError, match="is not a run directory"):
        distill(file, out=tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_a_sweep_has_an_owner(file: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("experiment: exp.yaml\nspace: {runtime.seed: {kind: grid, values: [0, 1]}}\n")
    told = while_owned(tmp_path / "out", lambda: sweep(tmp_path / "sweep.yaml", out=tmp_path / "out"))
    assert told.startswith(f"sweep directory {tmp_path / 'out'} is in use by process ")


def test_a_data_set_has_an_owner(teacher: Path, tmp_path: Path) -> None:
    plain = experiment(teacher)
    settings = {
        "task": plain["task"],
        "teacher": plain["teacher"],
        "dataset": {"kind": "digits", "split": "train", "max_images": 20},
        "selection": {"num_images": 10},
        "runtime": {"runner": "local", "bf16": False},
    }
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(settings))
    for resume in (False, True):
        told = while_owned(
            tmp_path / "out", lambda resume=resume: build_dataset(tmp_path / "build.yaml", out=tmp_path / "out", resume=resume)
        )
        assert told.startswith(f"data set folder {tmp_path / 'out'} is in use by process ")
    assert build_dataset(tmp_path / "build.yaml", out=tmp_path / "out").manifest["num_images"] == 10
    assert owner_of(tmp_path / "out") is None


def test_a_teachers_file_has_an_owner(tmp_path: Path) -> None:
    config = TeacherTrainingConfig.model_validate(
        {"model": "small_cnn_4", "num_classes": 10, "image_shape": [1, 8, 8], "dataset": {"kind": "digits"}, "epochs": 1}
    )
    told = while_owned(tmp_path, lambda: train_teacher(config, tmp_path / "t.safetensors"), "t.safetensors")
    assert told.startswith(f"teacher file {tmp_path / 't.safetensors'} is in use by process ")


def test_a_data_set_that_is_fetched_has_an_owner(tmp_path: Path) -> None:
    told = while_owned(tmp_path / "cifar10", lambda: fetch("cifar10", out=tmp_path, local=tmp_path))
    assert told.startswith(f"data set folder {tmp_path / 'cifar10'} is in use by process ")
