"""What a buffer of CIFAR images takes, and whether it goes on taking more.

    python experiments/benchmarks/memory.py [--quick]

A replay actor's buffer of 50,000 images is filled and then renewed many times over by a noise generator, while a student's
client in a process of its own draws batches. ``Bytes in the object store`` is what Ray's object store says it holds;
``index`` is every byte that the plain buffer allocates (Python's ``tracemalloc``, which NumPy reports to). Of the replay
actor and the client, resident memory is read throughout, with and without the pages that they share with the object store.
Snapshots are written far more often than in a run, because one maps every live shard: resident memory would otherwise step
up at the first of them, in the middle of the measurement.

Prints readable lines and, last, one JSON object of the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import tracemalloc
from typing import Any

import numpy as np
import ray
from rig import FULL_SPEED, NUM_CLASSES, Rig, experiment, noise_batch, object_store, private_bytes, resident_bytes, rig

from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.replay.buffer import ReplayBuffer

NUM_ITEMS = 50_000
BATCH_SIZE = 256
TOTAL_STEPS = 10_000_000
MIB = 1 << 20
SAMPLE_PERIOD_S = 0.5
SNAPSHOT_PERIOD_S = 5.0
NUM_LINES = 20
DRAWS_PER_INSERT = 4
"""Training batches for each inserted one: enough that the client keeps up, few enough that eviction is what is measured."""


@ray.remote(num_cpus=0, max_concurrency=2)
class Consumer:
    """A student's client that draws as fast as it is let."""

    def __init__(self, config: ExperimentConfig, replay: Any, weight_store: Any) -> None:
        import torch

        from raydfkd.runtime.replay.replay_client import ReplayClient

        torch.set_num_threads(1)
        self._client = ReplayClient(config, replay, weight_store, "0", 0, 1, 0, torch.device("cpu"))
        self._priorities = torch.from_numpy(np.random.default_rng(1).exponential(size=BATCH_SIZE).astype(np.float32))
        self._stopped = False

    def pid(self) -> int:
        return os.getpid()

    def draw(self) -> int:
        """Until ``stop``; the number of batches."""
        step = 0
        while not self._stopped:
            batch = self._client.next(step, 0)
            self._client.report(batch.keys, self._priorities[: len(batch.keys)])
            step += 1
        return step

    def stop(self) -> None:
        self._stopped = True


def index_bytes(config: ExperimentConfig) -> int:
    """Bytes that a full buffer of this experiment allocates, without any payload."""
    rng = np.random.default_rng(0)
    batch = noise_batch(rng, config.synthesis_batch_size)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    buffer = ReplayBuffer(config.replay, NUM_CLASSES, TOTAL_STEPS, (config.student_name,), rng)
    # Half as much again, so that eviction has begun.
    while buffer.num_inserts < 1.5 * config.replay.synthetic.capacity:
        buffer.insert(batch, None)
        buffer.sample(config.student_name, 1, config.student.batch_size, 0)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return after - before


def observe(bench: Rig, replay_pid: int, consumer_pid: int, num_images: int, inserts_per_s: float) -> list[dict[str, float]]:
    """Memory while the generator inserts ``num_images``, ``inserts_per_s`` batches a second, every ``SAMPLE_PERIOD_S``."""
    seen: list[dict[str, float]] = []
    bench.set_rate(inserts_per_s)
    print("memory: inserted images, then MiB: replay actor private and resident, client private and resident, object store")
    printed = 0
    while not seen or seen[-1]["inserted"] < num_images:
        stats = bench.stats()
        seen.append(
            {
                "inserted": stats["inserts"],
                "size": stats["size"],
                "live_shards_bytes": stats["bytes"],
                "replay_private": private_bytes(replay_pid),
                "replay_resident": resident_bytes(replay_pid),
                "consumer_private": private_bytes(consumer_pid),
                "consumer_resident": resident_bytes(consumer_pid),
                **{f"store_{name}": value for name, value in object_store().items()},
            }
        )
        if seen[-1]["inserted"] * NUM_LINES > printed * num_images:
            printed += 1
            columns = ("replay_private", "replay_resident", "consumer_private", "consumer_resident", "store_bytes_used")
            print(f"memory: {seen[-1]['inserted']:9,d}", *(f"{seen[-1][name] / MIB:8.1f}" for name in columns), flush=True)
        time.sleep(SAMPLE_PERIOD_S)
    bench.set_rate(0)
    return seen


def at_rest() -> int:
    """The least that the object store holds in the seconds after all has stopped: nothing in flight, no snapshot under way."""
    found = []
    for _ in range(10):
        time.sleep(SAMPLE_PERIOD_S)
        found.append(object_store()["bytes_used"])
    return min(found)


def figures_of(seen: list[dict[str, float]], num_images: int) -> dict[str, float]:
    """Means over the second and the last quarter of the inserted images, by which time the buffer is full, in MiB."""

    def mean(name: str, first: float, last: float) -> float:
        rows = [row[name] for row in seen if first * num_images <= row["inserted"] <= last * num_images] or [seen[-1][name]]
        return sum(rows) / len(rows)

    figures: dict[str, float] = {}
    for who in ("replay_private", "replay_resident", "consumer_private", "consumer_resident", "store_bytes_used"):
        second, last = mean(who, 0.25, 0.5), mean(who, 0.75, 1.01)
        figures[f"{who}_mib_second_quarter"] = second / MIB
        figures[f"{who}_mib_last_quarter"] = last / MIB
        figures[f"{who}_growth"] = last / second - 1
    figures["store_objects_second_quarter"] = mean("store_num_objects", 0.25, 0.5)
    figures["store_objects_last_quarter"] = mean("store_num_objects", 0.75, 1.01)
    figures["store_largest_mib"] = max(row["store_bytes_used"] for row in seen) / MIB
    figures["spilled_mib"] = seen[-1]["store_spilled_bytes"] / MIB
    figures["live_shards_mb"] = max(row["live_shards_bytes"] for row in seen) / 1e6
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; its figures mean nothing")
    parser.add_argument("--images", type=int, default=800_000, help="inserted in all")
    parser.add_argument("--inserts-per-s", type=float, default=20.0, help="batches that the generator inserts a second")
    given = parser.parse_args()
    num_items, num_images = (2_048, 6_000) if given.quick else (NUM_ITEMS, given.images)
    schedule = {
        "rounds": TOTAL_STEPS,
        "student_steps_per_round": 1,
        "samples_per_insert": DRAWS_PER_INSERT,
        "error_buffer": 64 * BATCH_SIZE,
        "prefetch": 2,
        "batches_per_request": 8,
        "warmup_batches": 1,
    }
    config = experiment(num_items, BATCH_SIZE, schedule, snapshot_period_s=SNAPSHOT_PERIOD_S)
    figures: dict[str, float] = {"num_items": num_items, "inserted": num_images, "index_mb": index_bytes(config) / 1e6}
    with rig(config) as bench:
        replay_pid = ray.get(bench.replay.__ray_call__.remote(lambda actor: os.getpid()))
        consumer = Consumer.remote(config, bench.replay, bench.weight_store)
        consumer_pid = ray.get(consumer.pid.remote())
        drawing = consumer.draw.remote()
        seen = observe(bench, replay_pid, consumer_pid, num_images, given.inserts_per_s)
        figures |= figures_of(seen, num_images)
        ray.get(consumer.stop.remote())
        bench.set_rate(FULL_SPEED)
        figures["batches_drawn"] = ray.get(drawing)
        ray.get(bench.generator.drain.remote())
        figures["store_at_rest_mb"] = at_rest() / 1e6
        figures["live_shards_at_rest_mb"] = bench.stats()["bytes"] / 1e6
    for name, value in figures.items():
        print(f"memory: {name} = {value:,.4g}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
