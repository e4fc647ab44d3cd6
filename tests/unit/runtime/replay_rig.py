"""A replay service on small settings, and the generators and students of a test, which are threads or calls."""

from __future__ import annotations

from typing import Any

import numpy as np

from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.run.exchange import SampleRequest
from raydfkd.runtime.replay.replay_service import ReplayService
from raydfkd.types import SyntheticBatch

BATCH_SIZE = 8


def config(schedule: dict[str, Any] | None = None, capacity: int = 64, **runtime: Any) -> ExperimentConfig:
    return build_experiment(
        {
            "task": {"num_classes": 10, "image_shape": [1, 4, 4]},
            "teacher": {"model": "small_cnn_8"},
            "sources": {"inversion": {"method": "fast", "batch_size": BATCH_SIZE}},
            "replay": {"synthetic": {"capacity": capacity, "sampler": {"kind": "prioritized"}}},
            "students": {"small": {"model": "small_cnn_4", "batch_size": BATCH_SIZE}},
            "schedule": {"warmup_batches": 2, "rounds": 50, "student_steps_per_round": 2, **(schedule or {})},
            "runtime": runtime,
        }
    )


def batch(number: int, generator_id: str = "inversion-0") -> SyntheticBatch:
    """Images whose first pixels are the batch's number and their row."""
    images = np.zeros((BATCH_SIZE, 1, 4, 4), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = number % 256, np.arange(BATCH_SIZE)
    return SyntheticBatch(
        images=images,
        targets=np.full(BATCH_SIZE, -1),
        teacher_class=np.arange(BATCH_SIZE, dtype=np.int32),
        teacher_confidence=np.full(BATCH_SIZE, 0.5, np.float32),
        source="fast",
        generator_id=generator_id,
        student_version=0,
        metrics={"seconds": 0.1},
    )


def request(step: int, rank: int = 0, attempt: str = "first", cursor: int | None = -1, **given: Any) -> SampleRequest:
    settings = {"num_batches": 1, "version": step // 2, "keys": np.empty(0, np.int64), "priorities": np.empty(0, np.float32)}
    return SampleRequest("small", rank=rank, cursor=cursor, student_step=step, attempt=attempt, **{**settings, **given})


class Records:
    """Takes what the service tells."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []

    def __call__(self, kind: str, step: int, **values: Any) -> None:
        self.all.append({"kind": kind, "step": step, **values})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.all if record["kind"] == kind]


def service(settings: ExperimentConfig, **hooks: Any) -> tuple[ReplayService, Records]:
    records = Records()
    return ReplayService(settings, records, **hooks), records


def fill(replay: ReplayService, count: int, stream: str | None = None) -> str:
    """Inserts ``count`` batches with leave; the stream's name."""
    stream = replay.open_stream("inversion-0") if stream is None else stream
    for number in range(count):
        answer, _ = replay.admit(stream, 0, 1, 5.0)
        assert hasattr(answer, "number"), answer
        replay.insert(stream, batch(number), batch(number))
    return stream
