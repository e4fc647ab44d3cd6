"""What is written while a run goes on: records, pictures, TensorBoard, and who watches."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydfkd.pipeline.experiment.config import build_experiment
from raydfkd.pipeline.run.recorder import Recorder, Watcher, describe_environment, image_grid
from raydfkd.run_dir import RunDir


class Listening(Watcher):
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def stage(self, name: str, detail: str = "") -> None:
        self.heard.append((name, detail))

    def update(self, record: dict[str, Any]) -> None:
        self.heard.append(record)


class FakeEvents:
    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []
        self.closed = False

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.append((tag, value, step))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def made(tmp_path: Path) -> Any:
    config = build_experiment(
        {
            "task": {"num_classes": 2, "image_shape": [1, 4, 4]},
            "teacher": {"model": "x"},
            "sources": {"a": {"method": "fast", "batch_size": 4}},
            "replay": {"synthetic": {"capacity": 8}},
            "students": {"s": {"model": "x", "batch_size": 4}},
            "schedule": {"student_steps_per_round": 5},
        }
    )
    recorder = Recorder(config, RunDir.create(tmp_path / "run"), Listening(), elapsed_s=100.0)
    recorder._tensorboard = FakeEvents()
    yield recorder
    recorder.close()


def test_a_record_is_written_shown_and_drawn(made: Recorder) -> None:
    made.emit("evaluation", 7, metric_last=0.5, split="digits/test", ok=True, counts=[1, 2])
    made.emit("synthesis", 8, generator_id="a-0", loss=np.float32(2.0), seconds=1)
    records = list(made.run.metrics())
    assert [(r["kind"], r["step"]) for r in records] == [("evaluation", 7), ("synthesis", 8)]
    assert records[0]["time_s"] >= 100
    assert [heard["kind"] for heard in made.watcher.heard if isinstance(heard, dict)] == ["evaluation", "synthesis"]
    assert made._tensorboard.scalars == [("evaluation/metric_last", 0.5, 7), ("synthesis/a-0/seconds", 1, 8)]


def test_an_event_is_written_but_no_curve(made: Recorder) -> None:
    made.event("generator a-0 restarted")
    assert next(made.run.metrics("event"))["message"] == "generator a-0 restarted"
    assert made._tensorboard.scalars == []


def test_restarts_are_counted_and_generators_drawn_by_source(made: Recorder) -> None:
    for step in (3, 5):
        made.emit("event", step, message="generator a-0 died and was restarted", restart=True)
    made.emit("generators", 6, source="a", running=2, generators=[{"name": "a-0"}])
    assert made._tensorboard.scalars == [("event/restarts", 1, 3), ("event/restarts", 2, 5), ("generators/a/running", 2, 6)]
    resumed = Recorder(made.config, made.run, Listening())
    resumed._tensorboard = FakeEvents()
    resumed.emit("event", 7, message="replay actor restarted", restart=True)
    assert resumed._tensorboard.scalars == [("event/restarts", 3, 7)], "over all sessions of a run"
    resumed.close()


class FakeMlflow:
    def __init__(self) -> None:
        self.taken: list[Any] = []

    def take(self, scalars: Any, step: int) -> None:
        self.taken.append((list(scalars), step))

    def close(self, finished: bool) -> None:
        self.taken.append(finished)


@pytest.mark.parametrize("finished", [True, False])
def test_mlflow_gets_the_same_curves_and_how_the_run_ended(made: Recorder, finished: bool) -> None:
    made._mlflow = mlflow = FakeMlflow()
    made.emit("evaluation", 7, metric_last=0.5, split="digits/test")
    made.finished = finished
    made.close()
    assert mlflow.taken == [([("evaluation/metric_last", 0.5)], 7), finished]
    made._mlflow = None


def test_what_arose_earlier_elsewhere_keeps_its_time(made: Recorder) -> None:
    made.emit("replay", 1, wall_s=time.time() - 30)
    made.emit("replay", 1, wall_s=time.time() + 3000)
    late, early = made.run.metrics()
    spent_s = early["time_s"] - 100
    assert 70 - 1e-3 <= late["time_s"] <= 70 + spent_s + 1e-3
    assert 0 <= spent_s < 3000, "a clock that goes ahead makes nothing come from the future"
    assert "wall_s" not in late


def test_stages_go_to_the_watcher_and_closing_closes_all(made: Recorder) -> None:
    made.stage("finishing", "now")
    assert made.watcher.heard == [("finishing", "now")]
    made.close()
    assert made._tensorboard.closed


def test_a_stage_is_told_by_its_first_record_and_none_that_comes_before_it(made: Recorder) -> None:
    for kind in ("event", "synthesis", "synthesis", "preparation", "distillation", "synthesis", "distillation"):
        made.emit(kind, 0)
    stages = [heard for heard in made.watcher.heard if isinstance(heard, tuple)]
    assert stages == [("filling the buffer", ""), ("distilling", "")]


def test_pictures_are_named_by_round_and_hold_128_at_most(made: Recorder) -> None:
    images = np.arange(200, dtype=np.uint8)[:, None, None, None].repeat(4, 2).repeat(4, 3)
    made.save_grid(images, step=15)
    with Image.open(made.run.samples / "round-00003.png") as picture:
        assert picture.size == (16 * 4, 8 * 4)
        assert picture.getpixel((63, 31)) == 127


@pytest.mark.parametrize(("channels", "shape"), [(1, (6, 9)), (2, (6, 9, 2)), (3, (6, 9, 3)), (5, (6, 9, 3))])
def test_a_grid_is_filled_row_by_row_and_its_rest_is_black(channels: int, shape: tuple[int, ...]) -> None:
    images = np.arange(1, 6, dtype=np.uint8)[:, None, None, None].repeat(channels, 1).repeat(3, 2).repeat(3, 3)
    grid = image_grid(images, 3)
    assert grid.shape == shape
    flat = grid.reshape(6, 9, -1)[..., 0]
    assert [int(flat[y, x]) for y in (0, 3) for x in (0, 3, 6)] == [1, 2, 3, 4, 5, 0]


def test_a_grid_of_few_images_is_no_wider_than_they_are() -> None:
    assert image_grid(np.zeros((2, 1, 4, 4), np.uint8), 16).shape == (4, 8)


def test_the_environment_names_versions_and_hardware() -> None:
    found = describe_environment()
    assert found["packages"]["torch"]
    assert found["hardware"]["cpus"] >= 1
    assert found["python"].startswith("3.")
