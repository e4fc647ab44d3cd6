"""Too little of something: an object store that is nearly full, and a generator that is much slower than the others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from bench import Numbered, bench, numbers_of
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from tiny_experiment import BATCH_SIZE, experiment

from raydfkd.runtime.run_context import RunContext
from raydfkd.testing.waiting import wait_until
from raydfkd.types import SyntheticBatch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_actor_left")]

DECOUPLED = {"mode": "decoupled", "rounds": 1000, "samples_per_insert": 2.0, "error_buffer": 256.0, "prefetch": 1}
SIDE = 256
STORE, LEFT, BUDGET = 300 << 20, 90 << 20, 16 << 20
"""Bytes: the session's object store, what a test leaves of it, and what the buffer may take of that.

Ray moves objects to disk as soon as the store is full to four fifths: a buffer that outgrew its budget by 14 MiB would show."""


@ray.remote(num_cpus=0, max_concurrency=4)
class LargeImages(Numbered):
    """Numbered images of 64 KiB."""

    def stream(self, stream: str) -> Iterator[SyntheticBatch]:
        for batch in super().stream(stream):
            images = np.zeros((BATCH_SIZE, 1, SIDE, SIDE), np.uint8)
            images.reshape(BATCH_SIZE, -1)[:, :64] = batch.images.reshape(BATCH_SIZE, -1)
            columns = ("targets", "teacher_class", "teacher_confidence", "source", "generator_id", "student_version")
            yield SyntheticBatch(images=images, **{name: getattr(batch, name) for name in columns})


@ray.remote(num_cpus=0, max_concurrency=4)
class Straggler(Numbered):
    """Takes its time over each batch."""

    def __init__(self, context: RunContext, generator_id: str, turn: int, num_turns: int, first: int, pause_s: float) -> None:
        super().__init__(context, generator_id, turn, num_turns, first)
        self._pause_s = pause_s

    def stream(self, stream: str) -> Iterator[SyntheticBatch]:
        for batch in super().stream(stream):
            time.sleep(self._pause_s)
            yield batch


def store() -> Any:
    return get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address)).store_stats


def test_a_buffer_keeps_to_its_bytes_in_a_store_that_is_nearly_full(teacher: Path, tmp_path: Path) -> None:
    wait_until(lambda: store().object_store_bytes_used < 20 << 20, 300, "an earlier test left the store full")
    ballast = ray.put(np.zeros(STORE - LEFT - store().object_store_bytes_used, np.uint8))
    spilled = store().spilled_bytes_total
    tree = experiment(
        teacher,
        task={"image_shape": [1, SIDE, SIDE]},
        replay={"synthetic": {"capacity": 2048, "capacity_bytes": BUDGET, "sampler": {"kind": "prioritized"}}},
        schedule=DECOUPLED,
    )
    with bench(tree, tmp_path) as actors:
        generator = LargeImages.remote(actors.context, "inversion-0", 0, 1, 0)
        ray.get(actors.replay.attach.remote("inversion-0", generator), timeout=300)
        client, seen = actors.client(), set()
        for step in range(120):
            batch = client.next(step, step // 4)
            client.report(batch.keys, torch.ones(len(batch.keys)))
            seen |= set(numbers_of(batch.images).tolist())
            assert store().object_store_bytes_used < STORE
        stats = actors.stats()
        assert stats["inserts"] * SIDE * SIDE > 1.3 * LEFT, "more was inserted than the store has room for"
        assert 0.5 * BUDGET < stats["bytes"] <= BUDGET
        assert seen <= set(range(ray.get(generator.made.remote(), timeout=300)))
        assert actors.events() == []
        assert store().spilled_bytes_total == spilled, "nothing had to go to disk"
    del ballast


def test_a_straggler_holds_nobody_up(teacher: Path, tmp_path: Path) -> None:
    with bench(experiment(teacher, schedule=DECOUPLED), tmp_path) as actors:
        slow = Straggler.remote(actors.context, "inversion-0", 0, 2, 1 << 20, 3600.0)
        ray.get(actors.replay.attach.remote("inversion-0", slow), timeout=300)
        wait_until(lambda: ray.get(slow.made.remote(), timeout=300) > 1 << 20, 300, "the straggler has not begun a batch")
        fast = actors.generator("inversion-1", 1, 2)
        client = actors.client()
        for step in range(40):
            batch = client.next(step, step // 4)
            client.report(batch.keys, torch.ones(len(batch.keys)))
        # The straggler still has its first batch in hand, and nobody waited for it.
        assert ray.get(slow.made.remote(), timeout=300) == (1 << 20) + BATCH_SIZE
        assert ray.get(fast.made.remote(), timeout=300) >= 40 * BATCH_SIZE / 2
        stats = actors.stats()
        assert 2.0 * (stats["inserts"] - 4 * BATCH_SIZE) - stats["samples"] <= 256 + 2 * 2 * BATCH_SIZE, "the limiter holds"
        ray.kill(slow)
