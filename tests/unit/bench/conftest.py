"""A bench of seconds: real digits, tiny networks, no reports but the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.experiment.yaml_files import validate
from raydfkd.pipeline.teacher.config import TeacherTrainingConfig
from raydfkd.pipeline.teacher.epoch_lines import EpochLines
from raydfkd.pipeline.teacher.training import train_teacher

RECIPE = {
    "model": "small_cnn_8",
    "num_classes": 10,
    "image_shape": [1, 8, 8],
    "dataset": {"kind": "digits", "split": "train"},
    "epochs": 4,
    "batch_size": 64,
    "optimizer": {"lr": 0.1},
    "flip": False,
    "bf16": False,
}


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench_teacher") / "teacher.safetensors"
    train_teacher(validate(TeacherTrainingConfig, RECIPE, "recipe"), path, EpochLines(lambda line: None))
    return path


@pytest.fixture(autouse=True)
def _no_reports_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("raydfkd.report.html", "raydfkd.bench.bench_run"):
        monkeypatch.setattr(f"{place}.write_report", lambda path: Path(path) / "report.html")


@pytest.fixture
def tree(teacher: Path) -> dict[str, Any]:
    return {
        "task": {"num_classes": 10, "image_shape": [1, 8, 8]},
        "teacher": {"model": "small_cnn_8", "checkpoint": str(teacher)},
        "sources": {"inversion": {"method": "ssdkd", "batch_size": 16}},
        "replay": {"synthetic": {"capacity": 64}},
        "students": {"small": {"model": "small_cnn_4", "batch_size": 16, "resources": {"num_threads": 1}}},
        "evaluation": {"dataset": {"kind": "digits", "split": "test", "max_images": 60}},
        "runtime": {"runner": "local", "device": "cpu", "bf16": False, "seed": 3},
    }


@pytest.fixture
def base(tree: dict[str, Any]) -> ExperimentConfig:
    return build_experiment(tree)
