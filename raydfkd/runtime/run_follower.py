"""The driver's view of a live run: moves records from the coordinator to the recorder, and polls the actors' status."""

from __future__ import annotations

import logging
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from raydfkd.errors import RunFailedError, WaitTimeoutError
from raydfkd.pipeline.run.recorder import Recorder
from raydfkd.runtime.calls import call
from raydfkd.runtime.failures import Failure

logger = logging.getLogger(__name__)

STATS_PERIOD_S = 5.0
PATIENCE_S = 10.0


class LogFollower:
    """Follows a run.

    Args:
        recorder: receives the records.
        actors: handles of ``coordinator``, ``replay`` and ``pool``.
    """

    def __init__(self, recorder: Recorder, actors: dict[str, Any]) -> None:
        self._recorder = recorder
        self._coordinator, self._replay, self._pool = actors["coordinator"], actors["replay"], actors["pool"]
        self._next_stats = time.monotonic() + STATS_PERIOD_S
        self._pictured = -1

    def follow(self, last: bool = False) -> Failure | None:
        """Takes new records; returns the run's failure, if it has failed."""
        due = last or time.monotonic() >= self._next_stats
        try:
            records, failure = call(self._coordinator.drain.remote, PATIENCE_S, "the run's coordinator")
            if due and failure is None and not last:
                call(self._pool.pids.remote, PATIENCE_S, "the generator pool")
        except WaitTimeoutError as error:
            logger.info("%s", error)
            return None
        except RunFailedError as error:
            return Failure.of(error, "the driver")
        for record in records:
            self._recorder.emit(record.pop("kind"), record.pop("step"), **record)
        if due:
            self._next_stats = time.monotonic() + STATS_PERIOD_S
            self._take_stats(last)
        return failure

    def _take_stats(self, last: bool) -> None:
        try:
            step, stats = ray.get(self._replay.stats.remote(), timeout=PATIENCE_S)
            self._recorder.emit("replay", step, **stats)
            tenth = step * 10 // max(1, self._recorder.config.schedule.total_steps)
            images = (
                ray.get(self._replay.newest_images.remote(), timeout=PATIENCE_S) if last or tenth > self._pictured else None
            )
        except (RayError, GetTimeoutError) as error:
            logger.info("the replay actor does not answer at the moment: %s", type(error).__name__)
            return
        if images is not None:
            self._pictured = tenth
            self._recorder.save_grid(images, step)
