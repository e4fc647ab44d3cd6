"""Speed of the replay buffer. Prints readable lines and, last, one JSON object of the figures.

    python experiments/benchmarks/replay.py [--quick]

``in_process``: the plain buffer; the best of several repetitions, because other processes can only slow a repetition down.
``through_actor``: images that a replay actor delivers to one student's client while a generator inserts, against the naive
design (an actor that gathers and returns each batch when called, and is called again with the priorities). Both take turns
in one run on one machine, so that their ratio holds however loaded the machine is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import torch
from rig import FULL_SPEED, IMAGE_SHAPE, NUM_CLASSES, NoiseGenerator, Rig, experiment, noise_batch, rig, wait_until

from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.replay.buffer import ReplayBuffer
from raydfkd.replay.config import ReplayConfig, SelectorConfig, TableConfig
from raydfkd.runtime.replay.replay_client import ReplayClient
from raydfkd.types import SyntheticBatch

NUM_ITEMS = 50_000
BATCH_SIZE = 256
BATCHES_PER_CALL = 16
PREFETCH = 4
TOTAL_STEPS = 10_000_000


def replay_config(num_items: int) -> ReplayConfig:
    return ReplayConfig(synthetic=TableConfig(capacity=num_items, sampler=SelectorConfig(kind="prioritized")))


def best_seconds(work: Callable[[], object], repetitions: int = 50) -> float:
    best = float("inf")
    for _ in range(repetitions):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def in_process(num_items: int) -> dict[str, float]:
    """Draws (with keys, probabilities and importance weights), updates and inserts a second, in items, on a full buffer."""
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(replay_config(num_items), NUM_CLASSES, 10_000, ("student",), rng)
    batch = noise_batch(rng, BATCH_SIZE)
    while buffer.size < num_items:
        buffer.insert(batch, None)
    figures: dict[str, float] = {"num_items": num_items, "batch_size": BATCH_SIZE, "batches_per_call": BATCHES_PER_CALL}
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


@ray.remote(num_cpus=0)
class NaiveReplayActor:
    """The obvious design, to compare with: it holds the pixels, and a call is a batch."""

    def __init__(self, config: ExperimentConfig) -> None:
        capacity = config.replay.synthetic.capacity
        rng = np.random.default_rng(0)
        self._buffer = ReplayBuffer(config.replay, NUM_CLASSES, TOTAL_STEPS, (config.student_name,), rng)
        self._images = np.zeros((capacity, *IMAGE_SHAPE), np.uint8)
        self._config = config

    def insert(self, batch: SyntheticBatch) -> None:
        before = self._buffer.num_batches - 1
        self._buffer.insert(batch, None)
        self._images[self._buffer.shards_after(before)[0].slots] = batch.images

    def size(self) -> int:
        return self._buffer.size

    def num_inserts(self) -> int:
        return self._buffer.num_inserts

    def sample(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, importance weights and keys of one batch."""
        drawn = self._buffer.sample(self._config.student_name, 1, self._config.student.batch_size, step)
        return self._images[drawn.slots[0]], drawn.importance_weights[0], drawn.keys[0]

    def update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        self._buffer.update(self._config.student_name, keys, priorities)


class Consumer:
    """Draws batches as a student does, and gives them priorities drawn from noise."""

    def __init__(self, batch_size: int) -> None:
        self.step = 0
        rng = np.random.default_rng(1)
        self._priorities = torch.from_numpy(rng.exponential(size=(64, batch_size)).astype(np.float32))

    def _found(self) -> torch.Tensor:
        return self._priorities[self.step % len(self._priorities)]


class ClientConsumer(Consumer):
    """Through the client that student workers use; what it gives is a tensor of its own."""

    def __init__(self, bench: Rig) -> None:
        super().__init__(bench.config.student.batch_size)
        self._client = ReplayClient(bench.config, bench.replay, bench.weight_store, "0", 0, 1, 0, torch.device("cpu"))

    def take(self) -> int:
        batch = self._client.next(self.step, 0)
        self._client.report(batch.keys, self._found())
        self.step += 1
        return len(batch.images)


class NaiveConsumer(Consumer):
    """A call for the batch, and one for its priorities. In its favour the images stay where they came in, read-only."""

    def __init__(self, actor: Any, batch_size: int) -> None:
        super().__init__(batch_size)
        self._actor = actor

    def take(self) -> int:
        images, _, keys = ray.get(self._actor.sample.remote(self.step))
        ray.get(self._actor.update.remote(keys, self._found().numpy()))
        self.step += 1
        return len(images)


def images_per_s(consumer: ClientConsumer | NaiveConsumer, seconds: float) -> float:
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        count += consumer.take()
    return count / (time.perf_counter() - began)


def through_actor(num_items: int, batch_size: int, turns: int, seconds: float, inserts_per_s: float) -> dict[str, float]:
    """Images a second that reach one consumer while a generator inserts ``inserts_per_s`` batches a second."""
    schedule = {
        "rounds": TOTAL_STEPS,
        "student_steps_per_round": 1,
        "prefetch": PREFETCH,
        "batches_per_request": BATCHES_PER_CALL,
    }
    config = experiment(num_items, batch_size, schedule)
    with rig(config) as bench:
        bench.fill()
        naive = NaiveReplayActor.remote(config)
        pusher = NoiseGenerator.remote(batch_size, naive)
        pusher.push.remote()
        ray.get(pusher.set_rate.remote(FULL_SPEED))
        wait_until(lambda: ray.get(naive.size.remote()) >= num_items, 300, "the naive buffer to fill")
        ray.get(pusher.set_rate.remote(0))
        ours, theirs = ClientConsumer(bench), NaiveConsumer(naive, batch_size)
        images_per_s(ours, min(1.0, seconds)), images_per_s(theirs, min(1.0, seconds))  # warm: the mirror is filled here
        before = bench.stats()["inserts"], ray.get(naive.num_inserts.remote())
        rates: list[tuple[float, float]] = []
        for turn in range(turns):
            bench.set_rate(inserts_per_s)
            delivered = images_per_s(ours, seconds)
            bench.set_rate(0)
            ray.get(pusher.set_rate.remote(inserts_per_s))
            rates.append((delivered, images_per_s(theirs, seconds)))
            ray.get(pusher.set_rate.remote(0))
            print(f"through actor: turn {turn}: {rates[-1][0]:,.0f} images/s; naive design {rates[-1][1]:,.0f} images/s")
        after = bench.stats()["inserts"], ray.get(naive.num_inserts.remote())
        ray.get(pusher.drain.remote())
    return _figures(rates, tuple((b - a) / (turns * seconds) for a, b in zip(before, after, strict=True)))


def _figures(rates: list[tuple[float, float]], inserted: tuple[float, ...]) -> dict[str, float]:
    ours, theirs = zip(*rates, strict=True)
    figures = {
        "images_per_s_median": statistics.median(ours),
        "images_per_s_best": max(ours),
        "naive_images_per_s_median": statistics.median(theirs),
        "naive_images_per_s_best": max(theirs),
        "ratio_median": statistics.median(a / b for a, b in rates),
        "inserted_images_per_s": inserted[0],
        "naive_inserted_images_per_s": inserted[1],
        "prefetch": PREFETCH,
        "batches_per_request": BATCHES_PER_CALL,
    }
    for name, value in figures.items():
        print(f"through actor: {name} = {value:,.1f}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; its figures mean nothing")
    parser.add_argument("--turns", type=int, default=5, help="turns that each design takes")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--inserts-per-s", type=float, default=20.0, help="batches that the generator inserts a second")
    given = parser.parse_args()
    torch.set_num_threads(1)
    items, turns, seconds = (2_048, 1, 0.5) if given.quick else (NUM_ITEMS, given.turns, given.seconds)
    figures = {
        "in_process": in_process(items),
        "through_actor": through_actor(items, BATCH_SIZE, turns, seconds, given.inserts_per_s),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
