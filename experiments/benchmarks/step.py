"""What the pipeline costs a student: its step there, against the same step on one batch that never moves.

    python experiments/benchmarks/step.py [--quick]

A Ray Train worker runs the real ``StudentLoop`` on the real ``ReplayClient``; a noise generator inserts a batch for every 20
steps, as in SSD-KD, and rests otherwise. Turns of pipeline steps alternate with turns of a second, equal distiller in the
same process, so that the ratio holds however loaded the machine is. During the distiller's turn the pipeline could fetch
ahead; the steps of a turn that live on what was fetched meanwhile are not counted. Prints readable lines and, last, one JSON
object of the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from rig import FULL_SPEED, IMAGE_SHAPE, Rig, experiment, rig

from raydfkd.distillation.distiller import Distiller
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run.student_loop import Batch, LoopHooks, StudentLoop
from raydfkd.runtime.replay.replay_client import ReplayClient
from raydfkd.types import WeightsVersion

PREFETCH = 2
BATCHES_PER_REQUEST = 4
STEPS_PER_INSERT = 20
LEAD_IN = (PREFETCH + 1) * BATCHES_PER_REQUEST
"""Steps at a turn's beginning that may live on what was fetched during the other's turn."""


@dataclass
class Turn:
    """Seconds of each counted step, what of them the pipeline's steps waited, and the process's CPU seconds."""

    pipeline_s: list[float] = field(default_factory=list)
    resident_s: list[float] = field(default_factory=list)
    pipeline_cpu_s: float = 0.0
    resident_cpu_s: float = 0.0
    waited_s: float = 0.0
    in_source_s: float = 0.0


class AlternatingSource:
    """The student loop's batch source: hands on the client's batches, and at a turn's end steps the other distiller.

    A pipeline step lasts from one ``next`` to the following one, so everything that the loop does is in it.
    """

    def __init__(self, client: ReplayClient, resident: Distiller, batch_size: int, turn_steps: int) -> None:
        self._client = client
        self._resident = resident
        images = np.random.default_rng(0).integers(0, 256, (batch_size, *IMAGE_SHAPE), dtype=np.uint8)
        self._images = torch.from_numpy(images).to(resident.device)
        self._weights = torch.ones(batch_size, device=resident.device)
        self._turn_steps = turn_steps
        self._began: float | None = None
        self.turns = [Turn()]

    def next(self, step: int, version: WeightsVersion) -> Batch:
        turn, into_turn = self.turns[-1], step % (LEAD_IN + self._turn_steps)
        now = time.perf_counter()
        if self._began is not None and (into_turn > LEAD_IN or into_turn == 0):
            turn.pipeline_s.append(now - self._began)
        if into_turn == 0 and step > 0:
            self._end_turn()
            turn = self.turns[-1]
        elif into_turn == LEAD_IN:
            self._client.take_waits()
            turn.pipeline_cpu_s -= time.process_time()
        self._began = time.perf_counter()
        batch = self._client.next(step, version)
        if into_turn >= LEAD_IN:
            turn.in_source_s += time.perf_counter() - self._began
        return batch

    def finish(self) -> list[Turn]:
        """All whole turns."""
        return [turn for turn in self.turns if turn.resident_s]

    def _end_turn(self) -> None:
        turn = self.turns[-1]
        turn.waited_s = sum(self._client.take_waits().values())
        turn.pipeline_cpu_s += time.process_time()
        turn.resident_cpu_s -= time.process_time()
        for _ in range(self._turn_steps):
            began = time.perf_counter()
            self._resident.step(self._images, self._weights)
            turn.resident_s.append(time.perf_counter() - began)
        turn.resident_cpu_s += time.process_time()
        self.turns.append(Turn())

    def report(self, keys: np.ndarray, priorities: torch.Tensor) -> None:
        self._client.report(keys, priorities)

    def publish(self, weights: np.ndarray, version: WeightsVersion) -> None:
        self._client.publish(weights, version)

    def flush(self) -> None:
        self._client.flush()

    def take_waits(self) -> dict[str, float]:
        """The loop's own records do not matter here; the client's waits are taken by turns."""
        return {}


def work(settings: dict[str, Any]) -> None:
    """A student worker's main function; leaves its turns in a file."""
    config: ExperimentConfig = settings["config"]
    torch.set_num_threads(settings["threads"])
    device = builder.choose_device(config, str(ray.train.torch.get_device()))
    client = ReplayClient(config, settings["replay"], settings["weight_store"], "0", 0, 1, 0, device)
    source = AlternatingSource(
        client, builder.build_distiller(config, device), config.student.batch_size, settings["turn_steps"]
    )
    log = settings["log"]
    hooks = LoopHooks(lambda kind, step, **values: log.push.remote(kind, step, values), lambda step: None)
    StudentLoop(config, builder.build_distiller(config, device), source, hooks, None).run()
    settings["answer"].write_text(json.dumps([vars(turn) for turn in source.finish()]))


def measure(bench: Rig, turn_steps: int, threads: int) -> list[Turn]:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "turns.json"
        ray.train.torch.TorchTrainer(
            work,
            train_loop_config={
                "config": bench.config, "replay": bench.replay, "weight_store": bench.weight_store, "log": bench.log,
                "turn_steps": turn_steps, "threads": threads, "answer": answer,
            },
            scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=ray.train.RunConfig(
                name="step", storage_path=folder, logging_config=ray.train.LoggingConfig(log_level="ERROR")
            ),
        ).fit()  # fmt: skip
        return [Turn(**turn) for turn in json.loads(answer.read_text())]


def figures_of(turns: list[Turn], batch_size: int) -> dict[str, float]:
    """Ratios, times and waits over all turns but the first, which warms caches, allocator and thread pools.

    ``ratio_of_cpu_time`` is of what the worker process computes, Ray's threads in it included. Other processes hardly touch
    it, and waits do not enter it: read it with ``wait_fraction`` where the machine is too loaded for the clock's ratios.
    """
    turns = turns[1:] if len(turns) > 1 else turns
    pipeline = [seconds for turn in turns for seconds in turn.pipeline_s]
    resident = [seconds for turn in turns for seconds in turn.resident_s]
    ratios = sorted(statistics.mean(turn.pipeline_s) / statistics.mean(turn.resident_s) for turn in turns)
    return {
        "ratio_of_means": statistics.mean(pipeline) / statistics.mean(resident),
        "ratio_of_medians": statistics.median(pipeline) / statistics.median(resident),
        "ratio_of_cpu_time": sum(turn.pipeline_cpu_s for turn in turns) / sum(turn.resident_cpu_s for turn in turns),
        "ratio_median_of_turns": statistics.median(ratios),
        "ratio_smallest_turn": ratios[0],
        "ratio_largest_turn": ratios[-1],
        "pipeline_step_ms": 1e3 * statistics.median(pipeline),
        "resident_step_ms": 1e3 * statistics.median(resident),
        "images_per_s": batch_size / statistics.mean(pipeline),
        "wait_fraction": sum(turn.waited_s for turn in turns) / sum(pipeline),
        "in_source_fraction": sum(turn.in_source_s for turn in turns) / sum(pipeline),
        "num_turns": len(turns),
        "steps_per_turn": len(turns[0].pipeline_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; its figures mean nothing")
    parser.add_argument("--turns", type=int, default=7, help="turns that each side takes; the first is not counted")
    parser.add_argument("--steps", type=int, default=24, help="counted steps of each turn")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the student worker")
    given = parser.parse_args()
    turns, steps, batch_size, capacity = given.turns, given.steps, given.batch_size, 20 * given.batch_size
    if given.quick:
        turns, steps, batch_size, capacity = 2, 4, 8, 64
    schedule = {
        "rounds": -(-(turns * (LEAD_IN + steps) + 1) // STEPS_PER_INSERT),
        "student_steps_per_round": STEPS_PER_INSERT,
        "samples_per_insert": STEPS_PER_INSERT,
        "error_buffer": 2 * STEPS_PER_INSERT * batch_size,
        "prefetch": PREFETCH,
        "batches_per_request": BATCHES_PER_REQUEST,
    }
    with rig(experiment(capacity, batch_size, schedule)) as bench:
        bench.set_rate(FULL_SPEED)  # the rate limiter holds it
        figures = figures_of(measure(bench, steps, given.threads), batch_size)
    for name, value in figures.items():
        print(f"step: {name} = {value:,.4f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
