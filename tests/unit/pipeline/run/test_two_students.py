"""Two students from one buffer, of different architecture and objective, with the local runner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import At, experiment

from raydfkd.api import Result, distill
from raydfkd.errors import RunDirError
from raydfkd.metrics import METRICS, is_loss
from raydfkd.models.weights import read_metadata
from raydfkd.run_dir import RunDir
from raydfkd.testing.command import invoke

Tensors = dict[str, torch.Tensor]

OTHER = {
    "model": "small_cnn_8",
    "batch_size": 8,
    "objective": {"kind": "classifier_sharing"},
    "crop_padding": 1,
    "flip": False,
    "ema_decay": 0.5,
}


@pytest.fixture(scope="module")
def run(teacher: Path) -> Any:
    """Runs without a report and TensorBoard events, whose making takes longer than these runs."""

    def go(out: Path, *overrides: str, students: dict[str, Any] | None = None, **options: Any) -> RunDir:
        tree = experiment(teacher)
        tree["students"] = {**tree["students"], "other": OTHER} if students is None else students
        tree["schedule"]["rounds"] = 3
        result: Result = distill(tree, overrides=overrides, out=out, **options)
        return RunDir(result.run_dir)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raydfkd.report.html.write_report", lambda path: path / "report.html")
        patch.setattr("raydfkd.pipeline.run.recorder.Recorder._to_tensorboard", lambda self, record: None)
        yield go


Run = Callable[..., RunDir]


@pytest.fixture(scope="module")
def both(run: Run, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return run(tmp_path_factory.mktemp("both") / "run")


def weights(run: RunDir) -> dict[str, Tensors]:
    return {path.stem: load_file(path) for path in sorted(run.path.glob("student*.safetensors"))}


def same(one: dict[str, Tensors], other: dict[str, Tensors]) -> bool:
    """Bit for bit."""
    names = [{file: set(tensors) for file, tensors in found.items()} for found in (one, other)]
    return names[0] == names[1] and all(torch.equal(one[file][name], other[file][name]) for file in one for name in one[file])


def test_each_student_leaves_its_weights_figures_and_records(both: RunDir) -> None:
    result = both.result()
    assert sorted(weights(both)) == ["student", "student-other", "student_ema", "student_ema-other"]
    assert read_metadata(both.student_path("other"))["model"] == "small_cnn_8"
    assert list(result["students"]) == ["small", "other"]
    small, other = result["students"].values()
    assert (small["model"], small["objective"], small["images_distilled"]) == ("small_cnn_4", "kl", 12 * 16)
    assert (other["model"], other["objective"], other["images_distilled"]) == ("small_cnn_8", "classifier_sharing", 12 * 8)
    assert result["student"] == {name: small[name] for name in result["student"]}
    assert (result["student_steps"], result["images_distilled"]) == (12, 12 * (16 + 8))
    for kind in ("distillation", "throughput", "evaluation"):
        told = [(record["step"], record["student"]) for record in both.metrics(kind)]
        assert told == [(step, name) for step in (4, 8, 12) for name in ("small", "other")]
    assert [record["step"] for record in both.metrics("synthesis")] == [0, 0, 0, 4, 8], "made once for both"


def test_every_number_that_is_recorded_is_declared_or_a_loss_of_the_method(both: RunDir) -> None:
    declared = {(metric.kind, metric.key) for metric in METRICS}
    recorded = {
        (record["kind"], key)
        for record in both.metrics()
        for key, value in record.items()
        if isinstance(value, int | float) and key not in ("time_s", "step")
    }
    assert {kind for kind, _ in recorded} == {"synthesis", "replay", "distillation", "throughput", "evaluation"}
    assert {place for place in recorded - declared if place[0] != "synthesis" or not is_loss(place[1])} == set()


def test_the_first_student_learns_what_it_learns_alone(run: Run, both: RunDir, teacher: Path, tmp_path: Path) -> None:
    alone = run(tmp_path / "run", students=experiment(teacher)["students"])
    found = weights(both)
    assert same(weights(alone), {name: found[name] for name in ("student", "student_ema")})


def test_a_source_plays_against_the_student_it_names(run: Run, both: RunDir, tmp_path: Path) -> None:
    """Until the first round is over its images are those that it makes for that student alone."""
    named = run(tmp_path / "named", "sources.inversion.student=other")
    alone = run(tmp_path / "alone", students={"other": OTHER})
    made = {
        name: [r["loss"] for r in r.metrics("synthesis")] for name, r in (("named", named), ("alone", alone), ("both", both))
    }
    assert made["named"][:3] == made["alone"][:3]
    assert made["named"][1] != made["both"][1], "the first batch that is made against a student"
    assert made["named"][3] != made["alone"][3], "the students have drawn differently since"


@pytest.mark.parametrize("killed_after", [2, 6])
def test_a_killed_and_resumed_run_ends_like_an_unbroken_one(run: Run, both: RunDir, tmp_path: Path, killed_after: int) -> None:
    """Killed before the first checkpoint, and in the midst of the second round."""

    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    def is_time(record: dict[str, Any]) -> bool:
        return record["kind"] == "throughput" and record["student"] == "other" and record["step"] >= killed_after

    with pytest.raises(Killed):
        run(tmp_path / "run", "runtime.log_period_steps=1", watcher=At(is_time, kill))
    resumed = run(tmp_path / "run", "runtime.log_period_steps=1", resume=True)
    assert same(weights(resumed), weights(both))
    assert resumed.result()["images_distilled"] == both.result()["images_distilled"]


def test_evaluate_and_export_choose_a_student_by_its_name(both: RunDir, tmp_path: Path) -> None:
    measured = {line.split()[0]: line.split()[1:3] for line in invoke("evaluate", both.path).splitlines()[2:]}
    last = {name: f"{student['metric_last']:.2%}" for name, student in both.result()["students"].items()}
    assert list(measured) == ["teacher", "student", "student_ema", "student-other", "student_ema-other"]
    assert (measured["student"], measured["student-other"]) == (["small_cnn_4", last["small"]], ["small_cnn_8", last["other"]])
    one = invoke("evaluate", both.path, "--student", "other").splitlines()[2:]
    assert [line.split()[0] for line in one] == ["teacher", "student-other", "student_ema-other"]
    file = invoke("evaluate", both.student_path("other"), "--config", both.config_path, "--student", "other").splitlines()
    assert file[3].split()[2] == last["other"]
    told = invoke("export", both.path, "--student", "other", "--format", "safetensors", "--out", tmp_path / "o.safetensors")
    assert told.startswith("small_cnn_8 exported to")
    assert "has no student 'third': use small, other" in invoke("evaluate", both.path, "--student", "third", rc=2)
    refused = invoke("export", both.path, "--student", "third", "--format", "pt2", "--out", tmp_path / "o.pt2", rc=2)
    assert "has no student 'third': it has small, other" in refused


def test_from_python_a_student_s_weights_are_found_by_its_name(both: RunDir) -> None:
    result = Result(both.result(), both.path, both.report_path)
    assert result.weights() == result.weights("small") == both.path / "student.safetensors"
    assert result.weights("other", ema=True) == both.path / "student_ema-other.safetensors"
    with pytest.raises(RunDirError, match="no student 'third'"):
        result.weights("third")


def test_checkpoints_hold_every_student_at_one_step(both: RunDir) -> None:
    folder = both.latest_checkpoint()
    assert folder is not None
    states = {path.stem: torch.load(path, weights_only=True) for path in (folder / "students").iterdir()}
    assert {name: state["num_steps"] for name, state in states.items()} == {"small": 12, "other": 12}
