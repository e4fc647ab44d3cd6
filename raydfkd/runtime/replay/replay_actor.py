"""The replay actor: a shell around ``ReplayService`` that owns every stored batch and pulls the generators' streams.

Threads: those of the groups below for calls, one ingest thread that pulls all streams, one that writes snapshots.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from raydfkd.pipeline.run import collecting
from raydfkd.pipeline.run.messages import NotYet, SampleReply, SampleRequest, Ticket
from raydfkd.runtime.failures import Failure
from raydfkd.runtime.prometheus import RunMetrics
from raydfkd.runtime.replay.ingest import FETCH_TIMEOUT_S, Ingest
from raydfkd.runtime.replay.replay_service import ReplayService
from raydfkd.runtime.run_context import RunContext
from raydfkd.types import SyntheticBatch, WeightsVersion

SNAPSHOT = "replay_snapshot"
"""Folder in the run directory from which a restarted replay actor continues."""


@ray.remote(num_cpus=0, concurrency_groups={"sample": 16, "admit": 64, "control": 4})
class ReplayActor:
    """Owns the buffer of a run and every payload in it; see ``ReplayService`` for its methods."""

    def __init__(self, context: RunContext) -> None:
        self._coordinator = context.actor("coordinator")
        self._metrics = RunMetrics(context)
        self._service = service = ReplayService(context.config, self._tell, ray.put, _fetch)
        snapshot = context.path / SNAPSHOT
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        source = snapshot if restarted and (snapshot / "exchange.json").exists() else context.resume_from
        if source is not None:
            self._restore(source)
        else:
            service.preload(collecting.read(context.run))
        if restarted:
            service.event(f"replay actor restarted from its snapshot with {service.size} images", restart=True)
        self._ingest = Ingest(service.insert, service.end_stream, self._fail)
        service.keep_snapshots(snapshot, context.config.runtime.snapshot_period_s)

    def _restore(self, source: Path) -> None:
        try:
            self._service.restore(source)
        except Exception as error:  # Ray does not pass on an exception raised in a constructor.
            ray.get(self._coordinator.fail.remote(Failure.of(error, "the replay actor")), timeout=FETCH_TIMEOUT_S)
            raise

    def _tell(self, kind: str, step: int, **values: Any) -> None:
        self._coordinator.push.remote(kind, step, values)

    def _fail(self, failure: Failure) -> None:
        self._coordinator.fail.remote(failure)
        self._service.abort(failure.sentence)

    @ray.method(concurrency_group="sample")
    def sample(self, request: SampleRequest, timeout_s: float) -> tuple[SampleReply | NotYet, np.ndarray | None, float]:
        return self._service.sample(request, timeout_s)

    @ray.method(concurrency_group="sample")
    def meet(self, student: str, step: int, timeout_s: float) -> NotYet | None:
        return self._service.meet(student, step, timeout_s)

    @ray.method(concurrency_group="admit")
    def admit(self, stream: str, turn: int, num_turns: int, timeout_s: float) -> tuple[Ticket | NotYet, float]:
        return self._service.admit(stream, turn, num_turns, timeout_s)

    @ray.method(concurrency_group="control")
    def note_preparation(self, stream: str, how_far: str | None) -> None:
        self._service.note_preparation(stream, how_far)

    @ray.method(concurrency_group="control")
    def register(self, consumer: str, attempt: str, rank: int, world_size: int, step: int, version: WeightsVersion) -> None:
        self._service.register(consumer, attempt, rank, world_size, step, version)

    @ray.method(concurrency_group="control")
    def update(self, consumer: str, keys: np.ndarray, priorities: np.ndarray) -> None:
        self._service.update(consumer, keys, priorities)

    @ray.method(concurrency_group="control")
    def forget(self, shard_ids: list[int]) -> None:
        self._service.forget(shard_ids)

    @ray.method(concurrency_group="control")
    def attach(self, generator_id: str, generator: Any) -> None:
        """Starts to pull a generator's stream."""
        self._ingest.attach(generator_id, self._service.open_stream(generator_id), generator)

    @ray.method(concurrency_group="control")
    def attached(self) -> list[str]:
        """Generators whose streams are open."""
        return self._ingest.attached()

    @ray.method(concurrency_group="control")
    def stats(self) -> tuple[int, dict[str, Any]]:
        step, stats = self._service.stats()
        self._metrics.take("replay", step, stats)
        return step, stats

    @ray.method(concurrency_group="control")
    def progress(self) -> tuple[bool, int]:
        """Whether a student has drawn images from this actor, and the sum of the students' steps."""
        return self._service.progress()

    @ray.method(concurrency_group="control")
    def newest_images(self) -> np.ndarray | None:
        return self._service.newest_images()

    @ray.method(concurrency_group="control")
    def save(self, folder: Path) -> None:
        self._service.save(folder)

    @ray.method(concurrency_group="control")
    def abort(self, message: str) -> None:
        self._service.abort(message)

    @ray.method(concurrency_group="control")
    def stop_admitting(self) -> None:
        self._service.stop_admitting()

    @ray.method(concurrency_group="control")
    def close(self) -> None:
        self._ingest.close()
        self._service.close()

    @ray.method(concurrency_group="control")
    def pid(self) -> int:
        return os.getpid()


def _fetch(ref: Any) -> SyntheticBatch | None:
    try:
        batch: SyntheticBatch = ray.get(ref, timeout=FETCH_TIMEOUT_S)
    except RayError:  # Including a timeout: pixels that do not arrive count as lost.
        return None
    return batch
