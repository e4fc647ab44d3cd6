"""What looks wrong with the teacher is an event at a run's beginning, before anything is spent on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_run import experiment

from raydfkd.api import distill
from raydfkd.data.datasets import load_dataset
from raydfkd.data.kinds.digits import DigitsConfig
from raydfkd.errors import ConfigError, TeacherError
from raydfkd.models.weights import read_metadata, save_weights
from raydfkd.run_dir import RunDir


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydfkd.report.html.write_report", lambda path: path / "report.html")
    monkeypatch.setattr("raydfkd.pipeline.run.recorder.Recorder._to_tensorboard", lambda self, record: None)


def warnings(tree: dict[str, Any], out: Path) -> list[str]:
    """Of a run of one round."""
    run = RunDir(distill(tree, overrides=["schedule.rounds=1"], out=out).run_dir)
    events = [record["message"] for record in run.metrics("event")]
    assert all(event.startswith("warning: ") for event in events)
    return [event.removeprefix("warning: ") for event in events]


def test_a_good_teacher_is_not_warned_of(teacher: Path, tmp_path: Path) -> None:
    assert warnings(experiment(teacher), tmp_path / "run") == []


def test_what_the_audit_finds_is_an_event(teacher: Path, tmp_path: Path) -> None:
    weights = load_file(teacher)
    head = [name for name in weights if weights[name].shape[:1] == (10,)]
    metadata = {"mean": "[0.3]", "std": "[0.4]", "image_shape": "[1, 8, 8]", "num_classes": "10"}
    state = {name: tensor / 1000 if name in head else tensor for name, tensor in weights.items()}
    _save(state, tmp_path / "cooled.safetensors", metadata)
    told = warnings(experiment(tmp_path / "cooled.safetensors"), tmp_path / "run")
    assert any("all classes are about equally likely" in one for one in told)


def _save(state: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    class Holder(torch.nn.Module):
        def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
            return state

    save_weights(Holder(), path, metadata)


def test_a_student_with_a_softmax_is_refused(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "softmaxed.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes), nn.Softmax(1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    tree = experiment(teacher)
    tree["students"]["small"]["model"] = "softmaxed:net"
    with pytest.raises(ConfigError, match="'softmaxed:net' gives probabilities, by a softmax at its end"):
        distill(tree, out=tmp_path / "run")


def test_a_teacher_at_chance_on_the_evaluation_data_is_an_event(teacher: Path, tmp_path: Path) -> None:
    tree = experiment(teacher)
    tree["teacher"]["normalization"] = {"mean": [0.3], "std": [400.0]}
    told = warnings(tree, tmp_path / "run")
    assert any("which is chance for 10 classes: check the order of the classes" in one for one in told)


def test_folders_in_another_order_than_the_teachers_classes_are_measured_by_name(teacher: Path, tmp_path: Path) -> None:
    """Their texts sort eight before five; the teacher's file names them from zero to nine."""
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    digits = load_dataset(DigitsConfig(split="test"), (1, 8, 8), 10)
    for number, label in enumerate(digits.labels[:100]):
        (tmp_path / "test" / words[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[number, 0]).save(tmp_path / "test" / words[label] / f"{number}.png")
    metadata = {"mean": "[0.3]", "std": "[0.4]", "num_classes": "10", "classes": json.dumps(words)}
    _save(load_file(teacher), tmp_path / "named.safetensors", metadata)
    tree = experiment(tmp_path / "named.safetensors")
    tree["evaluation"] = {"dataset": {"kind": "image_folder", "path": str(tmp_path / "test")}}
    run = RunDir(distill(tree, overrides=["schedule.rounds=1"], out=tmp_path / "run").run_dir)
    assert run.result()["teacher"]["metric"] > 0.6
    assert list(run.metrics("event")) == []
    assert json.loads(read_metadata(run.student_path())["classes"]) == list(words)


def test_a_teacher_without_batch_norm_is_distilled_once_its_loss_is_switched_off_as_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "grouped.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    layers = nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(288, num_classes)\n"
        "    return nn.Sequential(*layers)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    tree = experiment(tmp_path)
    tree["teacher"] = {"model": "grouped:net", "normalization": {"mean": [0.3], "std": [0.4]}}
    tree["evaluation"] = None
    with pytest.raises(TeacherError, match="but this teacher has GroupNorm; set the source's bn_weight to 0"):
        distill(tree, out=tmp_path / "run")
    tree["sources"]["inversion"]["bn_weight"] = 0
    assert warnings(tree, tmp_path / "run") == []
    losses = {record["bn_loss"] for record in RunDir(tmp_path / "run").metrics("synthesis")}
    assert losses == {0.0}
