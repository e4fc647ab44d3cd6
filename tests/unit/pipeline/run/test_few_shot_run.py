"""Whole runs of pruned and few-shot students on real digits: their files, what the stage gains, and that it is done once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import At, experiment
from typer.testing import CliRunner

from raydfkd.api import Result, distill
from raydfkd.cli.main import app
from raydfkd.errors import RaydfkdError
from raydfkd.models.exported import load_exported
from raydfkd.models.weights import read_metadata
from raydfkd.pipeline.experiment.builder import build_student
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.run_dir import RunDir

Run = Callable[..., Result]
IMAGES_ONLY = {"rounds": 0, "warmup_batches": 0, "batches_per_round": 0}


@pytest.fixture
def run(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("raydfkd.report.html.write_report", lambda path: path / "report.html")
    monkeypatch.setattr("raydfkd.pipeline.run.recorder.Recorder._to_tensorboard", lambda self, record: None)

    def go(out: Path, *overrides: str, schedule: dict[str, Any] | None = IMAGES_ONLY, **options: Any) -> Result:
        """``schedule`` None: with the source of synthetic images, two rounds."""
        tree = experiment(teacher)
        tree["students"]["small"] |= {"model": None, "pruned": {"ratio": 0.5}, "few_shot": {"kind": "fskd"}}
        tree["collected"] = {"dataset": {"kind": "digits", "split": "train"}, "num_images": 100}
        tree["replay"]["pinned"] = {"capacity": 100}
        if schedule is not None:
            tree["sources"] = {}
            tree["schedule"] |= schedule
        return distill(tree, overrides=overrides, out=out, **options)

    return go


def student_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "student.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_fskd_without_rounds_is_a_run_like_any_other_and_better_than_pruning_alone(run: Run, tmp_path: Path) -> None:
    fitted = run(tmp_path / "fskd").result
    pruned = run(tmp_path / "pruned", "students.small.few_shot=null").result
    assert fitted["student"]["model"] == "small_cnn_8 pruned by 50%"
    assert fitted["student"]["params"] == pruned["student"]["params"] < fitted["teacher"]["params"] / 2
    assert (fitted["method"], fitted["student_steps"], fitted["images_synthesized"]) == ("collected", 0, 0)
    assert fitted["student"]["metric_last"] == fitted["student"]["metric_ema"]
    assert fitted["student"]["agreement"] > pruned["student"]["agreement"]
    assert fitted["distillation_s"] > 0
    kept = RunDir(tmp_path / "fskd")
    assert [record["done"] for record in kept.metrics("few_shot")] == [1, 2, 3]
    assert {record["student"] for record in kept.metrics("few_shot")} == {"small"}
    (measured,) = kept.metrics("evaluation")
    assert (measured["step"], measured["metric_last"]) == (0, fitted["student"]["metric_last"])
    assert not kept.preparation.exists()


def test_a_pruned_student_is_exported_and_loaded_again(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "run")
    path = tmp_path / "run" / "student.safetensors"
    metadata = read_metadata(path)
    assert metadata["model"] == "small_cnn_8"
    assert json.loads(metadata["pruned"]) == {"features.0": 4, "features.3": 8, "features.6": 8}
    for number, source in enumerate((tmp_path / "run", path)):  # a run directory, and a weights file alone
        out = tmp_path / f"student{number}.pt2"
        told = CliRunner().invoke(app, ["export", str(source), "--format", "pt2", "--out", str(out)])
        assert told.exit_code == 0, told.output
        network = build_student(load_experiment(tmp_path / "run" / "config.yaml"))
        network.load_state_dict(student_of(tmp_path / "run"))
        images = torch.rand(5, 1, 8, 8)
        torch.testing.assert_close(load_exported(out)(images), network.eval()((images - 0.3) / 0.4), rtol=1e-4, atol=1e-5)
    told = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run")])
    assert told.exit_code == 0, told.output
    assert "small_cnn_8 pruned by 50%" in told.output


def test_pruned_weights_are_the_teachers_and_drawn_ones_are_the_seeds(run: Run, tmp_path: Path, teacher: Path) -> None:
    run(tmp_path / "kept", "students.small.few_shot=null")
    full, small = load_file(teacher), student_of(tmp_path / "kept")
    strongest = full["features.0.weight"].abs().sum((1, 2, 3)).argsort(descending=True)[:4].sort().values
    assert torch.equal(small["features.0.weight"], full["features.0.weight"][strongest])
    config = load_experiment(tmp_path / "kept" / "config.yaml", ["students.small.pruned.weights=drawn", "schedule.rounds=1"])
    drawn = build_student(config).state_dict()
    assert {name: tensor.shape for name, tensor in drawn.items()} == {name: tensor.shape for name, tensor in small.items()}
    assert same(drawn, build_student(config).state_dict())
    assert not torch.equal(drawn["features.0.weight"], small["features.0.weight"])


def test_the_stage_comes_before_a_normal_schedule(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "run", schedule=None).result
    assert (result["student_steps"], result["images_synthesized"]) == (8, 64)
    kinds = [record["kind"] for record in RunDir(tmp_path / "run").metrics()]
    assert kinds.index("few_shot") < kinds.index("synthesis")
    assert [record["step"] for record in RunDir(tmp_path / "run").metrics("evaluation")] == [0, 4, 8]


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        (IMAGES_ONLY, ("few_shot", 0)),  # in the stage
        (IMAGES_ONLY, ("evaluation", 0)),  # behind it
        (None, ("synthesis", 0)),
        (None, ("distillation", 8)),
    ],
)
def test_a_killed_run_goes_on_to_the_same_student(
    schedule: dict[str, Any] | None, at: tuple[str, int], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "unbroken", schedule=schedule)

    def kill() -> None:
        raise KeyboardInterrupt

    watcher = At(lambda record: (record["kind"], record["step"]) == at, kill)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", schedule=schedule, watcher=watcher)
    before = len(list(RunDir(tmp_path / "killed").metrics("few_shot")))
    distill(tmp_path / "killed" / "config.yaml", out=tmp_path / "killed", resume=True)
    assert same(student_of(tmp_path / "unbroken"), student_of(tmp_path / "killed"))
    again = len(list(RunDir(tmp_path / "killed").metrics("few_shot"))) - before
    assert again == (3 if at[0] == "few_shot" else 0), "a finished stage is not repeated"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["students.small.pruned.ratio=1"], r"students\.small\.pruned\.ratio"),
        (["students.small.pruned.weights=drawn"], "few_shot fskd corrects the filters that a pruned teacher has kept: give"),
        (["students.small.model=small_cnn_4"], "model and pruned each say what the student's network is, and both is given"),
        (["students.small.pruned=null", "students.small.few_shot=null"], "and neither is given: give one"),
        (["students.small.checkpoint=x.safetensors"], "checkpoint would replace the weights that pruned.weights kept gives"),
        (["students.small.num_workers=2", "runtime.runner=ray"], "few_shot trains in one process and num_workers is 2: set it"),
        (["students.small.objective={kind: classifier_sharing}"], "objective classifier_sharing changes the student's network"),
        (["students.small.few_shot={kind: netgraft}"], r"\(SmallCNN\) and student \(SmallCNN\) do not consist of the same"),
        (["students.small.pruned.layers=[features.9]"], "pruned.layers names 'features.9', and no convolution is there"),
        (["collected=null", "replay.pinned=null"], "students.small.few_shot trains on real or condensed images: name them in"),
        (["students.small={model: small_cnn_4, pruned: null, few_shot: null}"], "schedule.rounds 0 trains nobody, and"),
        (["teacher={model: wrn_10_1, normalization: {mean: [0.3], std: [0.3]}}"], "WideResNet cannot be pruned"),
        (["teacher={model: x.pt2}"], r"students\.small\.pruned needs the teacher's layers, and .*x\.pt2 is an exported"),
    ],
)
def test_what_does_not_fit_is_said_before_the_run(overrides: list[str], message: str, run: Run, tmp_path: Path) -> None:
    with pytest.raises(RaydfkdError, match=message):
        run(tmp_path / "run", *overrides)


def test_sources_need_rounds(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RaydfkdError, match=r"schedule\.rounds 0 leaves the sources nobody to make images for: leave them out"):
        run(tmp_path / "run", "schedule.rounds=0", schedule=None)
