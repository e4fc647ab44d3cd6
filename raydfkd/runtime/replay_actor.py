"""The replay actor: a shell with threads, waits and payload references around a plain ``Exchange``.

Threads: calls of the groups below, one ingest thread that pulls all generators' streams, one snapshot thread. One condition
guards the exchange; every wait on it ends when something changes, when its time is up, or when ``abort`` is called.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray

from raydfkd.errors import RunFailedError
from raydfkd.pipeline.config import ExperimentConfig
from raydfkd.pipeline.exchange import NotYet, SampleReply, SampleRequest, Ticket
from raydfkd.pipeline.exchange_state import build_exchange, load_exchange, save_exchange
from raydfkd.runtime.ingest import Ingest
from raydfkd.types import SyntheticBatch, WeightsVersion

Answer = TypeVar("Answer")

SNAPSHOT = "replay_snapshot"
"""Folder in the run directory from which a restarted replay actor goes on."""


@ray.remote(num_cpus=0, concurrency_groups={"sample": 16, "admit": 64, "control": 4})
class ReplayActor:
    """Owns the buffer and every payload in it.

    Args:
        config: the experiment.
        run_path: the run directory, on storage that every node sees.
        restore_from: a checkpoint folder to begin from, None for an empty buffer.
        log: the run's ``LogActor``.
    """

    def __init__(self, config: ExperimentConfig, run_path: Path, restore_from: Path | None, log: Any) -> None:
        self.config = config
        self.epoch = uuid.uuid4().hex
        self._log = log
        self._snapshot = run_path / SNAPSHOT
        self._exchange = build_exchange(config)
        self._changed = threading.Condition()
        self._failure: str | None = None
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        source = self._snapshot if restarted and (self._snapshot / "exchange.json").exists() else restore_from
        if source is not None:
            load_exchange(source, self._exchange, put=ray.put)
        if restarted:
            self._event(f"replay actor restarted from its snapshot with {self._exchange.buffer.size} images", restart=True)
        self._ingest = Ingest(self._insert, self._lost)
        threading.Thread(target=self._write_snapshots, name="snapshots", daemon=True).start()

    @ray.method(concurrency_group="sample")
    def sample(self, request: SampleRequest, timeout_s: float) -> tuple[SampleReply | NotYet, np.ndarray | None, float]:
        """The answer, the images themselves where delivery is ``gather``, and the seconds waited here."""
        began = time.monotonic()
        reply = self._wait_for(lambda: self._exchange.try_sample(request), timeout_s)
        images = None
        if isinstance(reply, SampleReply) and self.config.runtime.delivery == "gather":
            images = self._gather(reply.sample.slots)
            reply = SampleReply(reply.sample, [])
        return reply, images, time.monotonic() - began

    @ray.method(concurrency_group="admit")
    def admit(self, generator_id: str, turn: int, num_turns: int, timeout_s: float) -> Ticket | NotYet:
        return self._wait_for(lambda: self._exchange.try_admit(generator_id, turn, num_turns), timeout_s)

    @ray.method(concurrency_group="control")
    def register(self, consumer: str, session: str, rank: int, world_size: int, step: int, version: WeightsVersion) -> str:
        """A student worker announces itself. Returns the epoch of this buffer."""
        with self._changed:
            self._exchange.register(consumer, world_size, step, version, session, rank)
            self._changed.notify_all()
        return self.epoch

    @ray.method(concurrency_group="control")
    def update(self, consumer: str, keys: np.ndarray, priorities: np.ndarray) -> None:
        with self._changed:
            self._exchange.buffer.update(consumer, keys, priorities)

    @ray.method(concurrency_group="control")
    def attach(self, generator_id: str, generator: Any) -> None:
        """Begins to pull a generator's stream."""
        self._ingest.attach(generator_id, generator)

    @ray.method(concurrency_group="control")
    def cancel(self, generator_id: str) -> None:
        """Takes back the tickets of a dead generator."""
        with self._changed:
            self._exchange.cancel(generator_id)
            self._changed.notify_all()

    @ray.method(concurrency_group="control")
    def attached(self) -> list[str]:
        return self._ingest.attached()

    @ray.method(concurrency_group="control")
    def stats(self) -> tuple[int, dict[str, Any]]:
        with self._changed:
            return self._exchange.student_step, self._exchange.stats()

    @ray.method(concurrency_group="control")
    def newest_images(self) -> np.ndarray | None:
        with self._changed:
            views = self._exchange.buffer.shards_after(-1)
        return None if not views else np.array(ray.get(views[-1].payload).images)

    @ray.method(concurrency_group="control")
    def save(self, folder: Path) -> None:
        """Writes buffer and counts into a checkpoint folder."""
        save_exchange(folder, self._exchange, lambda view: ray.get(view.payload), self._changed)

    @ray.method(concurrency_group="control")
    def abort(self, message: str) -> None:
        """Wakes every waiter with an error: the run has failed."""
        with self._changed:
            self._failure = message
            self._changed.notify_all()

    @ray.method(concurrency_group="control")
    def close(self) -> None:
        self._ingest.close()

    def _wait_for(self, ask: Callable[[], Answer | NotYet], timeout_s: float) -> Answer | NotYet:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                if self._failure is not None:
                    raise RunFailedError(self._failure)
                before = self._exchange.progress()
                answer = ask()
                if self._exchange.progress() != before:
                    self._changed.notify_all()  # What this question brought or took may be what somebody else waits for.
                left = deadline - time.monotonic()
                if not isinstance(answer, NotYet) or left <= 0:
                    return answer
                self._changed.wait(left)

    def _insert(self, batch: SyntheticBatch, ref: Any) -> None:
        with self._changed:
            self._exchange.insert(batch, ref)
            step = self._exchange.student_step
            self._changed.notify_all()
        values = {"generator_id": batch.generator_id, "student_version": batch.student_version, "num_images": len(batch)}
        self._log.push.remote("synthesis", step, {**values, **batch.metrics})

    def _lost(self, generator_id: str, error: Exception) -> None:
        self._event(f"the stream of generator {generator_id} broke off ({type(error).__name__}); its delivered images stay")

    def _gather(self, slots: np.ndarray) -> np.ndarray:
        with self._changed:
            shard_ids, rows = self._exchange.buffer.locate(slots)
            payloads = {int(shard): self._exchange.buffer.payload(int(shard)) for shard in np.unique(shard_ids)}
        images = np.empty((*slots.shape, *self.config.task.image_shape), np.uint8)
        for shard, ref in payloads.items():
            here = shard_ids == shard
            images[here] = ray.get(ref).images[rows[here]]
        return images

    def _write_snapshots(self) -> None:
        while True:
            time.sleep(self.config.runtime.snapshot_period_s)
            self.save(self._snapshot)

    def _event(self, message: str, restart: bool = False) -> None:
        self._log.push.remote("event", self._exchange.student_step, {"message": message, "restart": restart})
