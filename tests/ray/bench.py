"""A run's actors without Ray Train: the replay actor, a generator that costs nothing, and clients in the test's process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from tiny_experiment import BATCH_SIZE

from raydfkd.pipeline.experiment.config import build_experiment
from raydfkd.pipeline.run.exchange import NotYet
from raydfkd.runtime.coordinator_actor import CoordinatorActor
from raydfkd.runtime.replay.replay_actor import ReplayActor
from raydfkd.runtime.replay.replay_client import ReplayClient
from raydfkd.runtime.run_context import RunContext
from raydfkd.runtime.students.weight_store_actor import WeightStoreActor
from raydfkd.types import SyntheticBatch


def numbered_batch(generator_id: str, first: int) -> SyntheticBatch:
    """Images that hold their own number in their first four pixels, so that each can be known again."""
    images = np.zeros((BATCH_SIZE, 1, 8, 8), np.uint8)
    numbers = np.arange(first, first + BATCH_SIZE, dtype=np.uint32)
    images.reshape(BATCH_SIZE, -1)[:, :4] = numbers.view(np.uint8).reshape(BATCH_SIZE, 4)
    return SyntheticBatch(
        images=images,
        targets=np.full(BATCH_SIZE, -1),
        teacher_class=(numbers % 10).astype(np.int32),
        teacher_confidence=np.full(BATCH_SIZE, 0.5, np.float32),
        source="ssdkd",
        generator_id=generator_id,
        student_version=0,
    )


def numbers_of(images: torch.Tensor) -> np.ndarray:
    """uint32 [n] of images uint8 [n,1,8,8]."""
    return np.ascontiguousarray(images.numpy().reshape(len(images), -1)[:, :4]).view(np.uint32)[:, 0]


class Numbered:
    """Streams numbered batches, from ``first`` on, as fast as it gets leave."""

    def __init__(self, context: RunContext, generator_id: str, turn: int, num_turns: int, first: int) -> None:
        self._replay = context.actor("replay")
        self._generator_id, self._turn, self._num_turns = generator_id, turn, num_turns
        self._next = first
        self._lock = threading.Lock()

    def stream(self, stream: str) -> Iterator[SyntheticBatch]:
        while True:
            try:
                answer = ray.get(self._replay.admit.remote(stream, self._turn, self._num_turns, 1.0))[0]
            except ray.exceptions.RayActorError:
                return
            if isinstance(answer, NotYet):
                if answer.cause == "over":
                    return
                continue
            with self._lock:
                first, self._next = self._next, self._next + BATCH_SIZE
            yield numbered_batch(self._generator_id, first)

    def made(self) -> int:
        return self._next


NumberedGenerator = ray.remote(num_cpus=0, max_concurrency=4)(Numbered)


@dataclass
class Bench:
    """Handles of the actors."""

    context: RunContext
    coordinator: Any
    replay: Any
    weights: Any

    def generator(self, generator_id: str, turn: int = 0, num_turns: int = 1, first: int = 0) -> Any:
        """A numbered generator, attached."""
        generator = NumberedGenerator.remote(self.context, generator_id, turn, num_turns, first)
        ray.get(self.replay.attach.remote(generator_id, generator), timeout=300)
        return generator

    def client(self, session: str = "first", rank: int = 0, world_size: int = 1, step: int = 0, **given: Any) -> ReplayClient:
        device = torch.device("cpu")
        return ReplayClient(self.context.config, self.replay, self.weights, session, rank, world_size, step, device, **given)

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = ray.get(self.replay.stats.remote(), timeout=300)[1]
        return stats

    def events(self) -> list[str]:
        """Event lines since the last call."""
        records, _ = ray.get(self.coordinator.drain.remote(), timeout=300)
        return [record["message"] for record in records if record["kind"] == "event"]


@contextlib.contextmanager
def bench(tree: dict[str, Any], path: Path) -> Iterator[Bench]:
    """The actors of a run, which end with the context."""
    context = RunContext(build_experiment(tree), path)
    handles: dict[str, Any] = {}
    actors: dict[str, Any] = {"coordinator": CoordinatorActor, "replay": ReplayActor, "weights": WeightStoreActor}
    try:
        for role, actor in actors.items():
            handles[role] = actor.options(name=context.name_of(role), max_restarts=3).remote(context)
        yield Bench(context, **handles)
    finally:
        for handle in handles.values():
            ray.kill(handle)
