"""A generator actor: a shell around one ``GeneratorLoop``."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, ObjectLostError

from raydfkd.errors import WaitTimeoutError
from raydfkd.pipeline.experiment.config import generator_id
from raydfkd.pipeline.run.messages import NotYet, Ticket
from raydfkd.runtime.calls import call
from raydfkd.runtime.generators.generator_loop import GeneratorLoop
from raydfkd.runtime.run_context import RunContext
from raydfkd.types import Preparation, SyntheticBatch, WeightsVersion

ADMISSION_WAIT_S = 2.0


@ray.remote(max_concurrency=4, max_restarts=0)
class GeneratorActor:
    """Fills the buffer until it is drained.

    Args:
        context: the run.
        source, index: the source, and the generator's number in it.
        turn: its position among all generators of the run.
    """

    def __init__(self, context: RunContext, source: str, index: int, turn: int) -> None:
        self._context, self._source, self._index, self._turn = context, source, index, turn
        self._generator_id = generator_id(source, index)
        self._student = context.config.student_of(source)
        self._timeout_s = context.config.runtime.wait_timeout_s
        self._replay, self._weights = context.actor("replay"), context.actor("weights")
        self._loop: GeneratorLoop | None = None

    def build(self, state: bytes | None) -> int:
        """Builds the networks, from an earlier synthesizer's state if given; returns the process id."""
        import torch

        from raydfkd.pipeline.experiment import builder
        from raydfkd.pipeline.run import collecting
        from raydfkd.runtime.ray_session import assigned_device

        config = self._context.config
        torch.set_num_threads(config.sources[self._source].resources.threads)
        device = builder.choose_device(config, assigned_device())
        collected = collecting.read(self._context.run)
        synthesizer = builder.build_synthesizer(config, self._source, self._index, device, collected)
        if state is not None:
            synthesizer.load_state_dict(torch.load(io.BytesIO(state), map_location="cpu", weights_only=True))
        coordinator = self._context.actor("coordinator")
        self._loop = GeneratorLoop(
            self._generator_id,
            synthesizer,
            self._admit,
            self._newest,
            self._note,
            lambda message: coordinator.push.remote("event", 0, {"message": message}),
            self._timeout_s,
        )
        return os.getpid()

    def alive(self) -> None:
        """Answers while the process lives, also during a batch."""

    def stream(self, stream: str) -> Iterator[SyntheticBatch]:
        yield from self._built.batches(stream)

    def drain(self) -> None:
        if self._loop is not None:
            self._loop.drain()

    def state(self) -> tuple[bytes, int]:
        """See ``GeneratorLoop.packed_state``."""
        return self._built.packed_state()

    @property
    def _built(self) -> GeneratorLoop:
        assert self._loop is not None, "build comes first"
        return self._loop

    def _admit(self, stream: str) -> tuple[Ticket | NotYet, float]:
        num_turns = len(self._context.config.generators)
        answer: tuple[Ticket | NotYet, float] = call(
            lambda: self._replay.admit.remote(stream, self._turn, num_turns, ADMISSION_WAIT_S),
            self._timeout_s,
            "the replay actor",
        )
        return answer

    def _note(self, stream: str, prepared: Preparation | None) -> None:
        how_far = None if prepared is None else f"preparation step {prepared.done} of {prepared.total}"
        self._replay.note_preparation.remote(stream, how_far)
        if prepared is not None:
            values = {"generator_id": self._generator_id, **prepared.record()}
            self._context.actor("coordinator").push.remote("preparation", 0, values)

    def _newest(self, known: WeightsVersion) -> tuple[WeightsVersion, np.ndarray | None]:
        version, refs = call(lambda: self._weights.newest.remote(known, self._student), self._timeout_s, "the weight store")
        if not refs:
            return version, None
        try:
            weights: np.ndarray = ray.get(refs[0], timeout=self._timeout_s)
        except GetTimeoutError as error:
            raise WaitTimeoutError(f"waited {self._timeout_s:.0f} s for the weights in the weight store") from error
        except ObjectLostError:
            return known, None  # The store died and the weights with it; they will be published again.
        return version, weights
