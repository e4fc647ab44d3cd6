"""doctor and run with networks of the user's that fail: every problem in one sentence, never a traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from raydfkd.errors import ConfigError
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.experiment.doctor import Diagnosis, diagnose
from raydfkd.pipeline.run.execute import execute
from raydfkd.run_dir import RunDir

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, num_classes)
    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))

class Moody(Net):
    calls = 0
    def forward(self, x):
        Moody.calls += 1
        if len(x) == 16:
            raise LookupError("sixteen is too many")
        return super().forward(x)

class Pair(Net):
    def forward(self, x):
        y = super().forward(x)
        return (y, y) if self.training else y

def broken(num_classes):
    raise KeyError("weights")
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "doctors_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "doctors_nets", raising=False)
    return {
        "task": {"num_classes": 3, "image_shape": [1, 8, 8]},
        "teacher": {"model": "doctors_nets:Net", "normalization": {"mean": [0.3], "std": [0.4]}},
        "sources": {"a": {"method": "ssdkd", "batch_size": 4, "base_channels": 4, "latent_dim": 8}},
        "replay": {"synthetic": {"capacity": 16}},
        "students": {
            "first": {"model": "doctors_nets:Pair", "batch_size": 8},
            "second": {"model": "doctors_nets:Moody", "batch_size": 16},
            "third": {"model": "doctors_nets:broken", "batch_size": 4},
        },
        "schedule": {"warmup_batches": 1, "rounds": 1, "student_steps_per_round": 1},
        "runtime": {"runner": "local", "bf16": False, "device": "cpu"},
    }  # fmt: skip


def experiment(settings: dict[str, Any]) -> ExperimentConfig:
    return build_experiment(settings, ())


def test_doctor_lists_every_failing_network(settings: dict[str, Any]) -> None:
    pair, moody, broken = diagnose(experiment(settings)).problems
    assert "students.first cannot be trained: in training mode its network gives a tuple" in pair
    assert "students.second cannot be trained" in moody
    assert "LookupError: sixteen is too many" in moody
    assert "doctors_nets.py:17)" in moody
    assert "cannot be built: called with (num_classes=3), it ends with KeyError: 'weights'" in broken


@pytest.mark.parametrize(
    ("norm", "suiting"),
    [
        ("BatchNorm2d(4)", ["ssdkd", "deep_inversion", "procedural"]),
        ("GroupNorm(2, 4)", ["ssdkd", "procedural", "dfad", "deep_inversion"]),
    ],
)
def test_doctor_names_what_suits_the_teacher_best_first(
    settings: dict[str, Any], tmp_path: Path, norm: str, suiting: list[str]
) -> None:
    (tmp_path / "doctors_nets.py").write_text(NETS.replace("BatchNorm2d(4)", norm))
    found = diagnose(experiment({**settings, "students": {"s": {"model": "small_cnn_4", "batch_size": 4}}}))
    told = [finding for what, finding in found.rows if what.startswith("suits this teacher, no. ")]
    assert [finding.partition(":")[0] for finding in told] == suiting
    assert all("teacher" in finding for finding in told)
    refused = [problem for problem in found.problems if "doctor names those that suit this teacher" in problem]
    assert len(refused) == (norm != "BatchNorm2d(4)"), "its own method reads BatchNorm statistics"


def test_a_run_refuses_them_before_it_starts(settings: dict[str, Any], tmp_path: Path) -> None:
    for name, words in (("first", "gives a tuple"), ("second", "sixteen is too many"), ("third", "KeyError: 'weights'")):
        tree = {**settings, "students": {name: settings["students"][name]}}
        with pytest.raises(ConfigError, match=words) as told:
            execute(experiment(tree), RunDir.create(tmp_path / name), resume=False, watcher=None, run_ray=lambda *_: None)
        assert told.value.exit_code == 2
        assert not (tmp_path / name / "manifest.json").exists()


def test_code_of_the_users_that_fails_late_is_a_problem_too(settings: dict[str, Any]) -> None:
    """The teacher's batch of 16 comes when synthesis is timed."""
    settings["teacher"]["model"] = "doctors_nets:Moody"
    settings["sources"]["a"]["batch_size"] = 16
    settings["students"] = {"small": {"model": "small_cnn_4", "batch_size": 8}}
    (problem,) = diagnose(experiment(settings)).problems
    assert "LookupError: sixteen is too many" in problem
    assert "doctors_nets.py:17" in problem


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    def check() -> None:
        builder.device_of(None)  # type: ignore[arg-type]
        {}["ours"]

    check.__code__ = check.__code__.replace(co_filename=builder.__file__)
    with pytest.raises(KeyError):
        Diagnosis().attempt(check)
