"""A generator actor: a shell around one synthesizer that asks for leave, takes new student weights, makes a batch, yields it."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ray

from raydfkd.errors import WaitTimeoutError
from raydfkd.pipeline.config import ExperimentConfig
from raydfkd.pipeline.exchange import NotYet, Ticket
from raydfkd.runtime.calls import call
from raydfkd.types import SyntheticBatch

ADMISSION_WAIT_S = 1.0


@ray.remote(max_concurrency=4, max_restarts=0)
class GeneratorActor:
    """Fills the buffer until it is drained.

    Args:
        config: the experiment.
        source, index: which generator of which source it is.
        turn: its place among all generators of the run.
        replay, weight_store: the actors it talks to.
        state: bytes of an earlier synthesizer's state, None for a new one.
    """

    def __init__(
        self, config: ExperimentConfig, source: str, index: int, turn: int, replay: Any, weight_store: Any, state: bytes | None
    ) -> None:
        import torch

        from raydfkd.pipeline import builder
        from raydfkd.runtime.session import assigned_device

        resources = config.sources[source].resources
        torch.set_num_threads(builder.threads_of(resources.num_cpus, resources.num_threads))
        self._config = config
        self._generator_id = builder.generator_id(source, index)
        self._turn = turn
        self._replay = replay
        self._weight_store = weight_store
        self._version = -1
        self._synthesizer = builder.build_synthesizer(config, source, index, builder.choose_device(config, assigned_device()))
        if state is not None:
            self._synthesizer.load_state_dict(torch.load(io.BytesIO(state), map_location="cpu", weights_only=True))
        self._busy = threading.Lock()
        self._draining = False
        self._num_streams = 0

    def ready(self) -> int:
        """Answers once the networks are built; the process id."""
        return os.getpid()

    def stream(self) -> Iterator[SyntheticBatch]:
        """Batches, one for each ticket. A newer call ends an older one (its caller has died and come back)."""
        self._num_streams += 1
        mine = self._num_streams
        while not self._draining and self._num_streams == mine:
            ticket, limiter_s = self._ask()
            if ticket is None:
                continue
            with self._busy:
                began = time.monotonic()
                self._take_weights(ticket.min_version)
                weights_s = time.monotonic() - began
                batch = self._synthesizer.step(ticket.summary)
                seconds = time.monotonic() - began - weights_s
            waits = {"seconds": seconds, "generator_wait_limiter_s": limiter_s, "generator_wait_weights_s": weights_s}
            yield replace(batch, metrics={**batch.metrics, **waits})

    def drain(self) -> None:
        """The batch in hand is the last."""
        self._draining = True

    def state(self) -> bytes:
        """The synthesizer's state between two batches."""
        import torch

        packed = io.BytesIO()
        with self._busy:
            torch.save(self._synthesizer.state_dict(), packed)
        return packed.getvalue()

    def _ask(self) -> tuple[Ticket | None, float]:
        began = time.monotonic()
        num_turns = len(self._config.generators)
        while not self._draining:
            answer = call(
                lambda: self._replay.admit.remote(self._generator_id, self._turn, num_turns, ADMISSION_WAIT_S),
                self._config.runtime.wait_timeout_s,
                "the replay actor's leave to synthesize",
            )
            if not isinstance(answer, NotYet):
                return answer, time.monotonic() - began
        return None, time.monotonic() - began

    def _take_weights(self, min_version: int) -> None:
        """Pulls the newest student weights; waits for ``min_version``."""
        deadline = time.monotonic() + self._config.runtime.wait_timeout_s
        while True:
            version, refs = call(
                lambda: self._weight_store.newest.remote(self._version), self._config.runtime.wait_timeout_s, "the weight store"
            )
            if refs:
                self._synthesizer.load_student(ray.get(refs[0], timeout=self._config.runtime.wait_timeout_s), version)
                self._version = version
            if self._version >= min_version or min_version == 0:
                return
            if time.monotonic() > deadline:
                raise WaitTimeoutError(
                    f"generator {self._generator_id} waited {self._config.runtime.wait_timeout_s:.0f} s for student weights "
                    f"{min_version} and has {self._version}: the student does not publish"
                )
            time.sleep(0.02)
