"""What a resume changes is recorded and holds on; what a run began with cannot be changed; a finished run can be prolonged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_run import At, experiment

from raydfkd.api import distill
from raydfkd.errors import ConfigError, RunDirError, TeacherError
from raydfkd.models.weights import load_optimizer
from raydfkd.pipeline.experiment.changes import differences, latest
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.run_dir import RunDir

LR = "students.small.optimizer.lr"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydfkd.report.html.write_report", lambda path: path / "report.html")
    monkeypatch.setattr("raydfkd.pipeline.run.recorder.Recorder._to_tensorboard", lambda self, record: None)


@pytest.fixture
def file(teacher: Path, tmp_path: Path) -> Path:
    tree = experiment(teacher)
    tree["students"]["small"]["optimizer"] = {"schedule": "constant", "lr": 0.1}
    tree["replay"]["synthetic"]["sampler"] = {"kind": "uniform"}  # like the constant rate, independent of the run's length
    path = tmp_path / "exp.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def stopped(file: Path, tmp_path: Path) -> RunDir:
    """Stopped in its second round of four, which an override gave it."""

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(
            file,
            overrides=["schedule.rounds=4"],
            out=tmp_path / "run",
            watcher=At(lambda r: r["kind"] == "distillation" and r["step"] == 8, stop),
        )
    return RunDir(tmp_path / "run")


def messages(run: RunDir) -> list[str]:
    return [record["message"] for record in run.metrics("event")]


def rates(run: RunDir) -> list[float]:
    return [record["lr"] for record in run.metrics("distillation")]


def test_changed_settings_are_recorded_and_a_plain_resume_keeps_them(file: Path, stopped: RunDir) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(
            stopped.config_path,
            overrides=[f"{LR}=0.02", "students.small.ema_decay=0.25"],
            out=stopped.path,
            resume=True,
            watcher=At(lambda r: r["kind"] == "distillation" and r["step"] == 12, stop),
        )
    config = load_experiment(stopped.config_path)
    assert (config.student.optimizer.lr, config.student.ema_decay, config.schedule.rounds) == (0.02, 0.25, 4)
    assert messages(stopped) == [
        "resumed from step-00000004",
        "settings changed: students.small.optimizer.lr was 0.1 and is 0.02, students.small.ema_decay was 0.5 and is 0.25",
    ]
    assert stopped.manifest()["overrides"] == ["schedule.rounds=4", f"{LR}=0.02", "students.small.ema_decay=0.25"]
    result = distill(file, out=stopped.path, resume=True)  # by the file, which knows of neither
    assert result.result["student_steps"] == 16
    assert rates(stopped) == [0.1, 0.02, 0.02, 0.02]
    assert messages(stopped)[2:] == ["resumed from step-00000008"]


def test_an_edit_of_the_experiments_file_holds_from_the_resume_on(file: Path, stopped: RunDir) -> None:
    file.write_text(file.read_text().replace("lr: 0.1", "lr: 0.05"))
    distill(file, out=stopped.path, resume=True)
    assert rates(stopped) == [0.1, 0.05, 0.05, 0.05]
    assert load_experiment(stopped.config_path).student.optimizer.lr == 0.05


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("runtime.seed=7", "runtime.seed was 0 and is 7"),
        ("task.num_classes=9", "task.num_classes was 10 and is 9"),
        ("teacher.model=small_cnn_16", "teacher.model was small_cnn_8 and is small_cnn_16"),
        ("students.small.model=small_cnn_8", "students.small.model was small_cnn_4 and is small_cnn_8"),
        ("students.other={model: small_cnn_8, batch_size: 16}", "students.other was null and is {model, "),
        ("students.small.batch_size=8", "students.small.batch_size was 16 and is 8"),
        ("schedule.student_steps_per_round=2", "schedule.student_steps_per_round was 4 and is 2"),
        ("replay.synthetic.capacity=64", "replay.synthetic.capacity was 40 and is 64"),
        ("sources.inversion.method=fast", "sources.inversion.method was ssdkd and is fast"),
    ],
)
def test_what_a_run_began_with_cannot_be_changed(file: Path, stopped: RunDir, override: str, told: str) -> None:
    before, records = stopped.config_path.read_text(), stopped.metrics_path.read_text()
    with pytest.raises(ConfigError, match=r"^the run in .* cannot change what it began with") as raised:
        distill(file, overrides=[override], out=stopped.path, resume=True)
    assert told in str(raised.value)
    assert stopped.config_path.read_text() == before
    assert stopped.metrics_path.read_text() == records


def test_an_architecture_that_the_checkpoint_lacks_is_refused_and_not_recorded(file: Path, stopped: RunDir) -> None:
    before = stopped.config_path.read_text()
    with pytest.raises(Exception, match="does not match the experiment"):
        distill(file, overrides=["sources.inversion.base_channels=8"], out=stopped.path, resume=True)
    assert stopped.config_path.read_text() == before


def test_the_teachers_file_may_move_but_not_change(file: Path, stopped: RunDir, teacher: Path, tmp_path: Path) -> None:
    moved = shutil.copy(teacher, tmp_path / "moved.safetensors")
    distill(file, overrides=[f"teacher.checkpoint={moved}"], out=stopped.path, resume=True)
    with pytest.raises(TeacherError, match="began with a teacher of sha256"):
        distill(
            file,
            overrides=["teacher.normalization={mean: [0.5], std: [0.5]}", "schedule.rounds=5"],
            out=_unpinned(stopped),
            resume=True,
        )


def _unpinned(run: RunDir) -> Path:
    """As if the recorded normalisation had always been the one of the file: only the teacher's hash tells."""
    tree: dict[str, Any] = yaml.safe_load(run.config_path.read_text())
    tree["teacher"]["normalization"] = {"mean": [0.5], "std": [0.5]}
    run.config_path.write_text(yaml.safe_dump(tree))
    return run.path


def test_a_finished_run_can_be_prolonged(file: Path, tmp_path: Path) -> None:
    run = RunDir(distill(file, out=tmp_path / "run").run_dir)
    with pytest.raises(RunDirError, match=r"a finished run: there is nothing to resume.*schedule.rounds above 2"):
        distill(file, out=run.path, resume=True)
    assert run.result()["student_steps"] == 8
    result = distill(run.config_path, overrides=["schedule.rounds=4"], out=run.path, resume=True)
    assert result.result["student_steps"] == 16
    assert [record["step"] for record in run.metrics("distillation")] == [4, 8, 12, 16]
    assert run.earlier_result_path(8).is_file()
    assert messages(run) == ["resumed from step-00000008", "settings changed: schedule.rounds was 2 and is 4"]
    assert load_experiment(run.config_path).schedule.rounds == 4
    whole = RunDir(distill(file, overrides=["schedule.rounds=4"], out=tmp_path / "whole").run_dir)
    last = [torch.load(r.latest_checkpoint() / "students" / "small.pt", weights_only=True)["student"] for r in (run, whole)]
    assert all(torch.equal(one, other) for one, other in zip(last[0].values(), last[1].values(), strict=True))


def test_an_optimizers_settings_are_the_experiments_and_its_moments_the_checkpoints() -> None:
    def optimizer(weight_decay: float) -> torch.optim.SGD:
        return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1, momentum=0.9, weight_decay=weight_decay)

    old, new = optimizer(0.0), optimizer(0.5)
    old.param_groups[0]["params"][0].sum().backward()
    old.step()
    load_optimizer(new, old.state_dict())
    assert new.param_groups[0]["weight_decay"] == 0.5
    assert [s["momentum_buffer"].item() for s in new.state.values()] == [1.0]


def test_differences_and_repeated_overrides() -> None:
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 1, "d": 3}, "c": 2}) == {"a.d": (None, 3)}
    assert latest(["a=1", "b=2", "a=3"]) == ["b=2", "a=3"]
