"""What the benchmarks share: an experiment of CIFAR size, a generator that costs nothing, a run's actors, memory figures."""

from __future__ import annotations

import contextlib
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.run.exchange import NotYet
from raydfkd.runtime.coordinator_actor import CoordinatorActor
from raydfkd.runtime.ray_session import session
from raydfkd.runtime.replay.replay_actor import ReplayActor
from raydfkd.runtime.run_context import RunContext
from raydfkd.runtime.students.weight_store_actor import WeightStoreActor
from raydfkd.types import SyntheticBatch

NUM_CLASSES = 10
IMAGE_SHAPE = (3, 32, 32)
GENERATOR_ID = "noise-0"
ADMISSION_WAIT_S = 1.0
FULL_SPEED = float("inf")


def noise_batch(rng: np.random.Generator, batch_size: int) -> SyntheticBatch:
    """One CIFAR-size batch of noise."""
    return SyntheticBatch(
        images=rng.integers(0, 256, (batch_size, *IMAGE_SHAPE), dtype=np.uint8),
        targets=rng.integers(0, NUM_CLASSES, batch_size),
        teacher_class=rng.integers(0, NUM_CLASSES, batch_size, dtype=np.int32),
        teacher_confidence=rng.random(batch_size, dtype=np.float32),
        source="ssdkd",
        generator_id=GENERATOR_ID,
        student_version=0,
        priorities=rng.exponential(size=batch_size).astype(np.float32),
    )


def experiment(capacity: int, batch_size: int, schedule: dict[str, Any], **runtime: Any) -> ExperimentConfig:
    """A decoupled CIFAR-size experiment, WRN-16-2 to WRN-16-1 with random weights, prioritized replay."""
    return build_experiment(
        {
            "task": {"num_classes": NUM_CLASSES, "image_shape": list(IMAGE_SHAPE)},
            "teacher": {"model": "wrn_16_2", "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3}},
            "sources": {"noise": {"method": "ssdkd", "batch_size": batch_size}},
            "replay": {"synthetic": {"capacity": capacity, "sampler": {"kind": "prioritized"}}},
            "students": {"student": {"model": "wrn_16_1", "batch_size": batch_size}},
            "schedule": {"mode": "decoupled", "warmup_batches": -(-capacity // batch_size), **schedule},
            # A local Ray of more CPUs than there may be: nothing here is placed by its CPUs.
            "runtime": {"runner": "ray", "num_cpus": 4, **runtime},
        }
    )


@ray.remote(num_cpus=0, max_concurrency=4)
class NoiseGenerator:
    """Stands in for a generator actor: asks for leave and streams as one does, but its images are noise made beforehand."""

    def __init__(self, batch_size: int, replay: Any, num_prepared: int = 8) -> None:
        rng = np.random.default_rng(0)
        self._replay = replay
        self._prepared = [noise_batch(rng, batch_size) for _ in range(num_prepared)]
        self._batches_per_s = 0.0
        self._rate_changed = threading.Event()
        self._drained = False
        self._made = 0

    def ready(self) -> None:
        """Answers once the batches are prepared."""

    def set_rate(self, batches_per_s: float) -> None:
        """0 pauses; ``FULL_SPEED`` has no bound."""
        self._batches_per_s = batches_per_s
        self._rate_changed.set()

    def drain(self) -> None:
        """Ends ``stream`` and ``push``."""
        self._drained = True
        self._rate_changed.set()

    def stream(self, stream: str) -> Iterator[SyntheticBatch]:
        """Batches for the replay actor, which pulls them."""
        for batch in self._paced():
            while isinstance(ray.get(self._replay.admit.remote(stream, 0, 1, ADMISSION_WAIT_S))[0], NotYet):
                if self._drained:
                    return
            yield batch

    def push(self) -> None:
        """Batches for a replay actor that is called with them."""
        for batch in self._paced():
            ray.get(self._replay.insert.remote(batch))

    def _paced(self) -> Iterator[SyntheticBatch]:
        due = time.monotonic()
        while not self._drained:
            if self._batches_per_s == 0:
                self._rate_changed.wait()
                self._rate_changed.clear()
                due = time.monotonic()
                continue
            due = max(due + 1 / self._batches_per_s, time.monotonic() - 0.1)
            if self._rate_changed.wait(max(0.0, due - time.monotonic())):
                self._rate_changed.clear()
                continue
            yield self._prepared[self._made % len(self._prepared)]
            self._made += 1


@dataclass
class Rig:
    """A replay actor with a generator attached to it."""

    config: ExperimentConfig
    replay: Any
    weight_store: Any
    generator: Any
    log: Any

    def size(self) -> int:
        return int(self.stats()["size"])

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = ray.get(self.replay.stats.remote())[1]
        return found

    def set_rate(self, batches_per_s: float) -> None:
        ray.get(self.generator.set_rate.remote(batches_per_s))

    def fill(self) -> None:
        """Lets the generator fill the buffer, and pauses it."""
        self.set_rate(FULL_SPEED)
        wait_until(lambda: self.size() >= self.config.replay.synthetic.capacity, 300, "the buffer to fill")
        self.set_rate(0)


def wait_until(done: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(0.05)


@contextlib.contextmanager
def rig(config: ExperimentConfig) -> Iterator[Rig]:
    """A local Ray with the actors of a run, the noise generator in the place of its generators."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, session(config):
        context = RunContext(config, Path(folder))
        log = CoordinatorActor.options(name=context.name_of("coordinator")).remote(context)
        replay = ReplayActor.remote(context)
        weight_store = WeightStoreActor.remote(context)
        generator = NoiseGenerator.remote(config.synthesis_batch_size, replay)
        ray.get(generator.ready.remote())
        ray.get(replay.attach.remote(GENERATOR_ID, generator))
        yield Rig(config, replay, weight_store, generator, log)
        ray.get(generator.drain.remote())


def private_bytes(pid: int) -> int:
    """Resident memory of a process without the pages that it shares (the object store's, and its libraries')."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, shared pages and all."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def object_store() -> dict[str, int]:
    """``bytes_used`` and ``num_objects`` of the object store now, and ``spilled_bytes`` written to disk so far."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    stats = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address)).store_stats
    return {
        "bytes_used": int(stats.object_store_bytes_used),
        "num_objects": int(stats.num_local_objects),
        "spilled_bytes": int(stats.spilled_bytes_total),
    }
