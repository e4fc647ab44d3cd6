"""Speed of the replay buffer. Prints readable lines and, last, one JSON object of the figures.

    python experiments/benchmarks/replay.py

The best of several repetitions is reported: other processes on the machine can only slow a repetition down.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np

from raydfkd.replay.buffer import ReplayBuffer
from raydfkd.replay.config import ReplayConfig, SelectorConfig, TableConfig
from raydfkd.types import SyntheticBatch

NUM_ITEMS = 50_000
BATCH_SIZE = 256
NUM_CLASSES = 10
BATCHES_PER_CALL = 16


def synthetic_batch(rng: np.random.Generator) -> SyntheticBatch:
    """One CIFAR-size batch of noise."""
    return SyntheticBatch(
        images=rng.integers(0, 256, (BATCH_SIZE, 3, 32, 32), dtype=np.uint8),
        targets=rng.integers(0, NUM_CLASSES, BATCH_SIZE),
        teacher_class=rng.integers(0, NUM_CLASSES, BATCH_SIZE, dtype=np.int32),
        teacher_confidence=rng.random(BATCH_SIZE, dtype=np.float32),
        source="ssdkd",
        generator_id="benchmark-0",
        student_version=0,
        priorities=rng.exponential(size=BATCH_SIZE).astype(np.float32),
    )


def replay_config() -> ReplayConfig:
    return ReplayConfig(synthetic=TableConfig(capacity=NUM_ITEMS, sampler=SelectorConfig(kind="prioritized")))


def best_seconds(work: Callable[[], object], repetitions: int = 50) -> float:
    best = float("inf")
    for _ in range(repetitions):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def in_process() -> dict[str, float]:
    """Draws (with keys, probabilities and importance weights), updates and inserts a second, in items, on a full buffer."""
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(replay_config(), NUM_CLASSES, 10_000, ("student",), rng)
    batch = synthetic_batch(rng)
    while buffer.size < NUM_ITEMS:
        buffer.insert(batch, None)
    figures: dict[str, float] = {"num_items": NUM_ITEMS, "batch_size": BATCH_SIZE, "batches_per_call": BATCHES_PER_CALL}
    for num_batches in (1, BATCHES_PER_CALL):
        seconds = best_seconds(lambda n=num_batches: buffer.sample("student", n, BATCH_SIZE, 5_000))  # type: ignore[misc]
        figures[f"draws_per_s_{num_batches}_batches"] = num_batches * BATCH_SIZE / seconds
    keys = buffer.sample("student", BATCHES_PER_CALL, BATCH_SIZE, 0).keys
    priorities = rng.exponential(size=keys.shape).astype(np.float32)
    figures["updates_per_s"] = keys.size / best_seconds(lambda: buffer.update("student", keys, priorities))
    figures["inserts_per_s"] = BATCH_SIZE / best_seconds(lambda: buffer.insert(batch, None))
    for name, value in figures.items():
        print(f"in process: {name} = {value:,.0f}")
    return figures


def main() -> None:
    print(json.dumps({"in_process": in_process()}))


if __name__ == "__main__":
    main()
