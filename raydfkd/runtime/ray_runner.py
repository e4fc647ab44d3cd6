"""The Ray runner: places the actors, lets the student train, writes what they report, and closes everything in order.

Who waits for whom: the student workers are the only finite loop; generators wait for leave (the rate limiter) until they are
drained; the replay actor's waits end when something changes. The driver waits for the student group and polls the log.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from raydfkd.errors import RaydfkdError, RunFailedError
from raydfkd.pipeline.config import ExperimentConfig
from raydfkd.pipeline.recorder import Recorder
from raydfkd.run_dir import RunDir
from raydfkd.runtime.generator_pool import GeneratorPoolActor
from raydfkd.runtime.log_actor import LogActor
from raydfkd.runtime.replay_actor import SNAPSHOT, ReplayActor
from raydfkd.runtime.session import preflight, session
from raydfkd.runtime.student_trainer import train_student
from raydfkd.runtime.weight_store_actor import WeightStoreActor

logger = logging.getLogger(__name__)

POLL_S = 0.5
STATS_PERIOD_S = 5.0
CLOSE_TIMEOUT_S = 20.0


def run_ray(config: ExperimentConfig, run: RunDir, recorder: Recorder, resume_from: Path | None) -> None:
    """Runs the experiment to its end; the last checkpoint in ``run`` holds its outcome.

    Args:
        resume_from: a checkpoint folder to go on from, None to begin.

    Raises:
        ResourceError: the cluster cannot place it.
        RunFailedError: it failed more often than ``runtime.max_restarts`` allows.
    """
    recorder.stage("starting Ray")
    with session(config):
        preflight(config)
        shutil.rmtree(run.path / SNAPSHOT, ignore_errors=True)
        with _actors(config, run, resume_from) as actors:
            recorder.stage("starting generators", f"{len(config.generators)}")
            ray.get(actors["pool"].start.remote(), timeout=config.runtime.wait_timeout_s + 60)
            recorder.stage("distilling")
            _train(config, run, recorder, actors)
    shutil.rmtree(run.path / "train", ignore_errors=True)
    shutil.rmtree(run.path / SNAPSHOT, ignore_errors=True)


@contextlib.contextmanager
def _actors(config: ExperimentConfig, run: RunDir, resume_from: Path | None) -> Iterator[dict[str, Any]]:
    """The run's actors; ended in order: generators drain, streams close, the rest is killed."""
    restarts = config.runtime.max_restarts
    log = LogActor.options(max_restarts=restarts).remote()
    replay = ReplayActor.options(max_restarts=restarts).remote(config, run.path, resume_from, log)
    weight_store = WeightStoreActor.options(max_restarts=restarts).remote()
    pool = GeneratorPoolActor.remote(config, replay, weight_store, log, resume_from)
    try:
        yield {"replay": replay, "weight_store": weight_store, "pool": pool, "log": log}
    finally:
        for what, close in (("generators", lambda: pool.close.remote(CLOSE_TIMEOUT_S)), ("streams", replay.close.remote)):
            try:
                ray.get(close(), timeout=CLOSE_TIMEOUT_S + 10)
            except (RayError, GetTimeoutError) as error:
                logger.warning("closing the %s: %s", what, error)
        for actor in (pool, replay, weight_store, log):
            ray.kill(actor)


def _train(config: ExperimentConfig, run: RunDir, recorder: Recorder, actors: dict[str, Any]) -> None:
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            train_student(config, run, actors)
        except BaseException as error:  # handed to the driver's thread, which raises it
            failures.append(error)

    thread = threading.Thread(target=fit, name="student group", daemon=True)
    thread.start()
    follower = _Follower(recorder, actors)
    while thread.is_alive():
        thread.join(POLL_S)
        follower.follow()
    follower.follow(last=True)
    if failures:
        _raise_first(failures[0], actors)


class _Follower:
    """Moves records from the log actor to the recorder, and asks the replay actor how it stands."""

    def __init__(self, recorder: Recorder, actors: dict[str, Any]) -> None:
        self._recorder = recorder
        self._log, self._replay = actors["log"], actors["replay"]
        self._next_stats = time.monotonic()
        self._pictured = -1

    def follow(self, last: bool = False) -> None:
        try:
            records = ray.get(self._log.drain.remote(), timeout=10)
            for record in records:
                self._recorder.emit(record.pop("kind"), record.pop("step"), **record)
            if last or time.monotonic() >= self._next_stats:
                self._next_stats = time.monotonic() + STATS_PERIOD_S
                self._take_stats(last)
        except (RayError, GetTimeoutError) as error:
            logger.info("the run's actors do not answer just now: %s", type(error).__name__)

    def _take_stats(self, last: bool) -> None:
        step, stats = ray.get(self._replay.stats.remote(), timeout=10)
        self._recorder.emit("replay", step, **stats)
        tenth = step * 10 // max(1, self._recorder.config.schedule.total_steps)
        if (last or tenth > self._pictured) and stats["size"]:
            self._pictured = tenth
            self._recorder.save_grid(ray.get(self._replay.newest_images.remote(), timeout=10), step)


def _raise_first(error: BaseException, actors: dict[str, Any]) -> None:
    """The user's or the run's own error, dug out of Ray's wrappers; anything else as a failed run with its cause."""
    try:
        failure = ray.get(actors["pool"].failure.remote(), timeout=5)
    except (RayError, GetTimeoutError):
        failure = None
    if failure is not None:
        raise RunFailedError(failure) from error
    for cause in _causes(error):
        if isinstance(cause, RaydfkdError):
            raise cause from error
    logger.error("%s", "".join(traceback.format_exception(error)))
    raise RunFailedError(f"the student workers failed: {error}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = [error]
    while seen:
        current = seen.pop()
        yield current
        nested = [current.__cause__, getattr(current, "cause", None), *getattr(current, "worker_failures", {}).values()]
        seen.extend(e for e in nested if isinstance(e, BaseException))
