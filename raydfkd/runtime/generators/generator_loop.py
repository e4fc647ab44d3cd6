"""A generator's loop: wait for admission, take new student weights, make a batch. Knows nothing of Ray."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from raydfkd.errors import WaitTimeoutError
from raydfkd.evaluation.collapse import batch_figures
from raydfkd.pipeline.run.messages import NotYet, Ticket
from raydfkd.types import Preparation, Synthesizer, SyntheticBatch, WeightsVersion

WEIGHTS_POLL_S = 0.02

Admit = Callable[[str], tuple[Ticket | NotYet, float]]
"""Requests admission for a stream: the answer, and the seconds of waiting for it that count as a wait."""
Newest = Callable[[WeightsVersion], tuple[WeightsVersion, np.ndarray | None]]
"""The newest published student weights and their version; None for the weights if the version is the one given."""


class GeneratorLoop:
    """Runs one synthesizer.

    Args:
        generator_id: for messages.
        synthesizer: makes the batches.
        admit, newest: see their types; both may block.
        note: called with the stream's name and the progress of the preparation; None once it is complete.
        tell: takes a one-line message for people.
        wait_timeout_s: the longest wait for student weights.
    """

    def __init__(
        self,
        generator_id: str,
        synthesizer: Synthesizer,
        admit: Admit,
        newest: Newest,
        note: Callable[[str, Preparation | None], None],
        tell: Callable[[str], None],
        wait_timeout_s: float,
    ) -> None:
        self._generator_id = generator_id
        self._synthesizer = synthesizer
        self._admit, self._newest, self._note, self._tell = admit, newest, note, tell
        self._wait_timeout_s = wait_timeout_s
        self._version: WeightsVersion = -1
        self._busy = threading.Lock()
        self._stream: str | None = None
        self._drained = False
        self.num_batches = 0
        """Batches made so far."""

    def batches(self, stream: str) -> Iterator[SyntheticBatch]:
        """Batches, one for each ticket, until admission is refused for good. A newer stream ends an older one."""
        self._stream = stream
        self._prepare(stream)
        while not self._drained and self._stream == stream:
            ticket, limiter_s = self._ask(stream)
            if ticket is None:
                return
            began = time.monotonic()
            if not self._take_weights(ticket.min_version):
                return
            ready = time.monotonic()
            with self._busy:
                batch = self._synthesizer.step(ticket.summary)
                self.num_batches += 1
            weights_s, seconds = ready - began, time.monotonic() - ready
            waits = {"seconds": seconds, "generator_wait_limiter_s": limiter_s, "generator_wait_weights_s": weights_s}
            figures = batch_figures(batch, len(ticket.summary.class_counts))
            yield replace(batch, metrics={**batch.metrics, **figures, **waits})

    def drain(self) -> None:
        """Makes the current batch the last one."""
        self._drained = True

    def packed_state(self) -> tuple[bytes, int]:
        """The synthesizer's state between two batches as ``torch.save`` writes it, and the number of batches made by then.

        A state refers to the synthesizer's own tensors, which its next batch changes in place; so it is serialised before that
        can start.
        """
        import torch

        packed = io.BytesIO()
        with self._busy:
            torch.save(self._synthesizer.state_dict(), packed)
            return packed.getvalue(), self.num_batches

    def _prepare(self, stream: str) -> None:
        while not self._drained and self._stream == stream:
            with self._busy:
                prepared = self._synthesizer.prepare()
            self._note(stream, prepared)
            if prepared is None:
                return

    def _ask(self, stream: str) -> tuple[Ticket | None, float]:
        """Waits for admission without a limit, because a student may take any time over its part, and reports long waits."""
        told, waited_s = time.monotonic(), 0.0
        while not self._drained and self._stream == stream:
            answer, counted_s = self._admit(stream)
            waited_s += counted_s
            if not isinstance(answer, NotYet):
                return answer, waited_s
            if answer.cause == "over":
                break
            if answer.cause != "complete" and time.monotonic() - told > self._wait_timeout_s:
                told = time.monotonic()
                self._tell(
                    f"generator {self._generator_id} has waited {self._wait_timeout_s:.0f} s for admission: {answer.reason}"
                )
        return None, waited_s

    def _take_weights(self, min_version: WeightsVersion) -> bool:
        """Takes the newest student weights; waits for ``min_version``. False if the generator was drained meanwhile.

        Waits without the lock: a student that requests this generator's state must get it, or it would never publish.
        """
        deadline = time.monotonic() + self._wait_timeout_s
        while True:
            version, weights = self._newest(self._version)
            if weights is not None:
                with self._busy:
                    self._synthesizer.load_student(weights, version)
                self._version = version
            if self._version >= min_version or min_version == 0:
                return True
            if self._drained:
                return False
            if time.monotonic() > deadline:
                raise WaitTimeoutError(
                    f"generator {self._generator_id} waited {self._wait_timeout_s:.0f} s for student weights {min_version} "
                    f"and has {self._version}: the student does not publish"
                )
            time.sleep(WEIGHTS_POLL_S)
