"""Stops a run cleanly when ``raydfkd stop`` or a signal requests it: who sees the request, and what the run waits for."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayError

from raydfkd.pipeline.run import stop_signals
from raydfkd.pipeline.run.checkpoints import stopped_early
from raydfkd.run_dir import RunDir
from raydfkd.runtime.ray_session import has_local_ray_ended

logger = logging.getLogger(__name__)

ASK_TIMEOUT_S = 2.0
PROGRESS_PERIOD_S = 1.0
KEEP_TIMEOUT_S = 30.0
GONE_S = 6.0
"""After a signal, actors that do not answer for this long have been ended by it."""
ORPHANED_S = 20.0
"""After a signal that has ended Ray too, the driver has this long to end by itself."""


class StopAsker:
    """Whether the run should end, for student workers. Called by all of a student's workers at the same step.

    The first worker asks the coordinator and shares the answer, so that no worker waits in a collective for one that has
    ended.

    Args:
        coordinator: of the run.
        rank, world_size: this worker's rank and the number of workers.
        student: its student.
    """

    def __init__(self, coordinator: Any, rank: int, world_size: int, student: str) -> None:
        self._coordinator, self._rank, self._world_size, self._student = coordinator, rank, world_size, student

    def __call__(self, number: int) -> bool:
        """Whether to end before round ``number``."""
        answer = [self._rank == 0 and _answer(self._coordinator.ends_before.remote(self._student, number))]
        if self._world_size > 1:
            torch.distributed.broadcast_object_list(answer, 0)
        return answer[0]


def is_stopping(coordinator: Any) -> bool:
    """Whether a stop was requested."""
    return _answer(coordinator.stopping.remote())


def _answer(ref: Any) -> bool:
    """False if the coordinator does not answer at the moment; it is asked again later."""
    try:
        return bool(ray.get(ref, timeout=ASK_TIMEOUT_S))
    except (RayError, GetTimeoutError) as error:
        logger.info("the coordinator does not answer at the moment: %s", type(error).__name__)
        return False


class OrphanWatch:
    """For the time of a run: ends this process if a signal has ended the Ray that it started as well, and it does not notice.

    Batch systems and systemd send SIGTERM to every process. A call to Ray without its server waits for a minute, whatever its
    timeout, and then aborts the process, which would leave a run that seems to be alive.

    Args:
        run: its manifest will say that it was stopped.
        total_steps: student steps of the schedule.
    """

    def __init__(self, run: RunDir, total_steps: int) -> None:
        self._run, self._total_steps = run, total_steps
        self._has_ended = threading.Event()

    def __enter__(self) -> OrphanWatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._has_ended.set()

    def begin(self) -> None:
        """To be called when the signal arrives."""
        threading.Thread(target=self._watch, name="orphan watch", daemon=True).start()

    def _watch(self) -> None:
        while not has_local_ray_ended():
            if self._has_ended.wait(PROGRESS_PERIOD_S):
                return
        if self._has_ended.wait(ORPHANED_S):
            return
        self._run.update_manifest(state="stopped", actors=None, ray=None)
        end = stopped_early(self._run, self._total_steps)
        sys.stderr.write(f"raydfkd: {end}\n")
        sys.stderr.flush()
        os._exit(end.exit_code)


class StopWatch:
    """The driver's view of a stop.

    Students end by themselves at their next round, after a checkpoint. The run does not wait for them in two cases: while no
    student has drawn an image yet, because they may wait for the whole warm-up and have nothing to save; and when they make
    no progress. Where the stop is a signal, it may have ended Ray's processes too, so that nothing answers any more.

    Args:
        actors: handles of ``coordinator``, ``replay`` and ``pool``.
        timeout_s: how long the students may make no progress.
    """

    def __init__(self, actors: dict[str, Any], timeout_s: float) -> None:
        self._coordinator, self._replay, self._pool = actors["coordinator"], actors["replay"], actors["pool"]
        self._timeout_s = timeout_s
        self._steps = -1
        self._moved_at = self._next_look = 0.0
        self.asked = False
        """Whether a stop was requested."""
        self.is_ray_gone = False
        """Whether the signal that requested it ended Ray's processes too."""

    def is_overdue(self) -> bool:
        """Whether to end without waiting for the students any longer."""
        now = time.monotonic()
        if not self.asked:
            if stop_signals.requested():
                self._coordinator.request_stop.remote()
            self.asked = is_stopping(self._coordinator) or stop_signals.requested()
            self._moved_at = now
        if not self.asked or now < self._next_look:
            return False
        self._next_look = now + PROGRESS_PERIOD_S
        try:
            has_drawn, steps = ray.get(self._replay.progress.remote(), timeout=ASK_TIMEOUT_S)
        except (RayError, GetTimeoutError) as error:
            logger.info("the replay actor does not answer at the moment: %s", type(error).__name__)
            self.is_ray_gone = stop_signals.requested() and now - self._moved_at > GONE_S
            return self.is_ray_gone or now - self._moved_at > self._timeout_s
        if steps != self._steps:
            self._steps, self._moved_at = steps, now
        return not has_drawn or now - self._moved_at > self._timeout_s

    def keep_preparation(self) -> None:
        """Saves the generators' preparation before their first batch, unless a checkpoint has it."""
        try:
            ray.get(self._pool.keep_preparation.remote(), timeout=KEEP_TIMEOUT_S)
        except (RayError, GetTimeoutError) as error:
            logger.warning("the generators' preparation could not be saved: %s", type(error).__name__)
