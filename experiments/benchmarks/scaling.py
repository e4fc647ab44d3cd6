"""How the pipeline scales: images that 1 to 8 generators bring in, batches that 1 to 4 consumers take out, and what one replay
actor bears at most.

    python experiments/benchmarks/scaling.py [--quick]

``generators``: actors that run the real generator loop around a synthesizer that sleeps instead of computing, so that a
machine of two cores can carry eight of them; what is measured is what the pipeline adds. ``unpaced``: the same without sleep,
CIFAR-size batches and large ones: the most that one replay actor takes in here. ``consumers``: the workers of one student, each
with batches of its own size (so the student's batch grows with them), while a generator inserts. CPU seconds are those of the
replay actor's process alone: 1 second a second is the end of what it can do, since its index is Python under one lock.
Prints readable lines and, last, one JSON object of the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from rig import Rig, experiment, noise_batch, rig, wait_until

from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run.exchange import NotYet, Ticket
from raydfkd.runtime.coordinator_actor import CoordinatorActor
from raydfkd.runtime.generators.generator_loop import GeneratorLoop
from raydfkd.runtime.ray_session import session
from raydfkd.runtime.replay.replay_actor import ReplayActor
from raydfkd.runtime.replay.replay_client import ReplayClient
from raydfkd.runtime.run_context import RunContext
from raydfkd.types import BufferSummary, SyntheticBatch

BATCH_SIZE = 256
TOTAL_STEPS = 10_000_000
LARGE_SHAPE = (3, 224, 224)
LARGE_BATCH = 64
PREFETCH = 4
BATCHES_PER_REQUEST = 16
ADMISSION_WAIT_S = 1.0
WARM_S = 2.0


class SleepingSynthesizer:
    """A synthesis that costs ``seconds`` and no processor. Only what a generator's loop calls is here."""

    def __init__(self, generator_id: str, batch: SyntheticBatch, seconds: float) -> None:
        self._batch = dataclasses.replace(batch, generator_id=generator_id)
        self._seconds = seconds

    def prepare(self) -> None:
        return None

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        time.sleep(self._seconds)
        return self._batch


@ray.remote(num_cpus=0, max_concurrency=4)
class SleepingGenerator:
    """A generator actor with the real loop in it, for which student weights never change."""

    def __init__(self, context: RunContext, generator_id: str, batch_size: int, shape: tuple[int, ...], seconds: float) -> None:
        self._replay = context.actor("replay")
        batch = noise_batch(np.random.default_rng(0), batch_size)
        images = np.random.default_rng(1).integers(0, 256, (batch_size, *shape), dtype=np.uint8)
        synthesizer: Any = SleepingSynthesizer(generator_id, dataclasses.replace(batch, images=images), seconds)
        self._loop = GeneratorLoop(
            generator_id, synthesizer, self._admit, lambda known: (0, None), lambda *_: None, lambda _: None, 60.0
        )

    def ready(self) -> None:
        """Answers once the batch is prepared."""

    def stream(self, stream: str) -> Iterator[SyntheticBatch]:
        yield from self._loop.batches(stream)

    def num_batches(self) -> int:
        """Batches synthesized."""
        return self._loop.num_batches

    def drain(self) -> None:
        self._loop.drain()

    def _admit(self, stream: str) -> tuple[Ticket | NotYet, float]:
        answer: tuple[Ticket | NotYet, float] = ray.get(self._replay.admit.remote(stream, 0, 1, ADMISSION_WAIT_S))
        return answer


@ray.remote(num_cpus=0)
class Consumer:
    """One of a student's workers: takes batches and gives priorities back, and does nothing else with them."""

    def __init__(self, config: ExperimentConfig, replay: Any, weight_store: Any, rank: int, world_size: int) -> None:
        torch.set_num_threads(1)
        self._client = ReplayClient(config, replay, weight_store, "0", rank, world_size, 0, torch.device("cpu"))
        self._step = 0

    def draw(self, steps: int) -> tuple[int, float]:
        """Images received, and seconds."""
        began, images = time.perf_counter(), 0
        for _ in range(steps):
            batch = self._client.next(self._step, 0)
            self._client.report(batch.keys, torch.rand(len(batch.keys)))
            images += len(batch.keys)
            self._step += 1
        return images, time.perf_counter() - began


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def filling(config: ExperimentConfig, num_generators: int, seconds: float) -> Iterator[tuple[Any, list[Any]]]:
    """A replay actor with generators attached that insert without end, and those generators."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        context = RunContext(config, Path(folder))
        log = CoordinatorActor.options(name=context.name_of("coordinator")).remote(context)
        replay = ReplayActor.options(name=context.name_of("replay")).remote(context)
        arguments = (config.synthesis_batch_size, config.task.image_shape, seconds)
        generators = [SleepingGenerator.remote(context, f"g-{n}", *arguments) for n in range(num_generators)]
        ray.get([generator.ready.remote() for generator in generators])
        ray.get([replay.attach.remote(f"g-{n}", generator) for n, generator in enumerate(generators)])
        yield replay, generators
        ray.get([generator.drain.remote() for generator in generators])
        ray.get(replay.stop_admitting.remote())
        for actor in (*generators, replay, log):
            ray.kill(actor)


def fill_rate(config: ExperimentConfig, num_generators: int, synthesis_s: float, seconds: float) -> dict[str, float]:
    """Images per second that generators synthesize and that are inserted, and what an inserted one costs the replay actor."""
    size = config.synthesis_batch_size
    with filling(config, num_generators, synthesis_s) as (replay, generators):

        def counts() -> tuple[float, int, int, float]:
            batches = sum(ray.get([generator.num_batches.remote() for generator in generators]))
            return time.perf_counter(), size * batches, ray.get(replay.stats.remote())[1]["inserts"], cpu_seconds(pid)

        pid = ray.get(replay.pid.remote())
        wait_until(
            lambda: ray.get(replay.stats.remote())[1]["inserts"] >= size * num_generators, 120, "every generator's first batch"
        )
        time.sleep(min(WARM_S, seconds))
        before = counts()
        time.sleep(seconds)
        passed, synthesized, inserted, cpu = (b - a for a, b in zip(before, counts(), strict=True))
    return {
        "synthesized_images_per_s": synthesized / passed,
        "inserted_images_per_s": inserted / passed,
        "inserted_mb_per_s": inserted / passed * np.prod(config.task.image_shape) / 1e6,
        "replay_cpu_us_per_image": 1e6 * cpu / max(1, inserted),
        "replay_cpu_share": cpu / passed,
    }


def tell(what: str, count: int, found: dict[str, float], ratio: float | None = None) -> None:
    rates = ", ".join(f"{name} {value:,.4g}" for name, value in found.items())
    print(f"{what}: {count}: {rates}" + ("" if ratio is None else f"; {ratio:.2f} times one"), flush=True)


def endless(batch_size: int, capacity: int, shape: tuple[int, ...]) -> ExperimentConfig:
    """Nobody draws, so that the warm-up, in which generators need not wait for a student, has no end."""
    schedule = {"rounds": TOTAL_STEPS, "student_steps_per_round": 1, "warmup_batches": TOTAL_STEPS}
    config = experiment(capacity, batch_size, schedule, snapshot_period_s=3600.0)
    return config.model_copy(update={"task": config.task.model_copy(update={"image_shape": shape})})


def generators(counts: list[int], capacity: int, synthesis_s: float, seconds: float) -> dict[str, float]:
    figures: dict[str, float] = {"synthesis_s": synthesis_s, "batch_size": BATCH_SIZE}
    for count in counts:
        found = fill_rate(endless(BATCH_SIZE, capacity, (3, 32, 32)), count, synthesis_s, seconds)
        figures |= {f"{name}_{count}": value for name, value in found.items()}
        figures[f"speedup_{count}"] = found["inserted_images_per_s"] / figures[f"inserted_images_per_s_{counts[0]}"]
        tell("generators", count, found, figures[f"speedup_{count}"])
    return figures


def unpaced(counts: list[int], capacity: int, seconds: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    kinds = {"small": endless(BATCH_SIZE, capacity, (3, 32, 32)), "large": endless(LARGE_BATCH, 16 * LARGE_BATCH, LARGE_SHAPE)}
    for kind, config in kinds.items():
        for count in counts:
            found = fill_rate(config, count, 0.0, seconds)
            figures |= {f"{kind}_{name}_{count}": value for name, value in found.items()}
            tell(f"unpaced, {kind} images", count, found)
    return figures


def drain_rate(bench: Rig, config: ExperimentConfig, count: int, seconds: float) -> dict[str, float]:
    """Images a second that reach ``count`` consumers together, and what one costs the replay actor."""
    workers = [Consumer.remote(config, bench.replay, bench.weight_store, rank, count) for rank in range(count)]
    pid = ray.get(bench.replay.__ray_call__.remote(lambda actor: os.getpid()))

    def draw(steps: int) -> tuple[int, float]:
        received = ray.get([worker.draw.remote(steps) for worker in workers])
        return sum(images for images, _ in received), max(took for _, took in received)

    steps = PREFETCH * BATCHES_PER_REQUEST
    draw(steps)  # the mirrors are filled here
    _, took = draw(steps)
    cpu = cpu_seconds(pid)
    images, took = draw(max(steps, int(steps * seconds / took)))
    cpu = cpu_seconds(pid) - cpu
    for worker in workers:
        ray.kill(worker)
    return {"images_per_s": images / took, "replay_cpu_us_per_image": 1e6 * cpu / images, "replay_cpu_share": cpu / took}


def consumers(counts: list[int], capacity: int, seconds: float, inserts_per_s: float) -> dict[str, float]:
    figures: dict[str, float] = {"batch_size_of_each": BATCH_SIZE, "inserted_batches_per_s": inserts_per_s}
    schedule = {
        "rounds": TOTAL_STEPS,
        "student_steps_per_round": 1,
        "prefetch": PREFETCH,
        "batches_per_request": BATCHES_PER_REQUEST,
    }
    for count in counts:
        config = experiment(capacity, BATCH_SIZE, schedule, snapshot_period_s=3600.0)
        student = config.student.model_copy(update={"batch_size": count * BATCH_SIZE, "num_workers": count})
        config = config.model_copy(update={"students": {config.student_name: student}})
        with rig(config) as bench:
            bench.fill()
            bench.set_rate(inserts_per_s)
            found = drain_rate(bench, config, count, seconds)
        figures |= {f"{name}_{count}": value for name, value in found.items()}
        figures[f"ratio_{count}"] = found["images_per_s"] / figures[f"images_per_s_{counts[0]}"]
        tell("consumers", count, found, figures[f"ratio_{count}"])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; its figures mean nothing")
    parser.add_argument("--synthesis-s", type=float, default=0.5, help="seconds that a sleeping synthesis takes")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--inserts-per-s", type=float, default=10.0, help="batches inserted a second while consumers draw")
    given = parser.parse_args()
    few, more, capacity, seconds, synthesis_s = [1, 2, 4], [1, 2, 4, 8], 50_000, given.seconds, given.synthesis_s
    if given.quick:
        few, more, capacity, seconds, synthesis_s = [1, 2], [1, 2], 2_048, 0.3, 0.05
    with session(endless(BATCH_SIZE, capacity, (3, 32, 32))):
        figures = {
            "generators": generators(more, capacity, synthesis_s, seconds),
            "unpaced": unpaced(few[:2], capacity, seconds),
            "consumers": consumers(few, capacity, seconds, given.inserts_per_s),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
