"""The Ray runner: places the actors, runs the students' training, writes the records, and shuts everything down in order.

What waits for what: the student workers are the only finite loop; generators wait for admission (by the rate limiter) until it
is refused permanently; the replay actor's waits end when something changes. The driver waits for the student groups and polls
the coordinator. The first failure reported there is the run's. Each student has its own Ray Train worker group, so that a dead
worker takes only its own student back to the last checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.train import WorkerGroupError
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydfkd.errors import RunDirError, RunFailedError
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run import stop_signals
from raydfkd.pipeline.run.checkpoints import steps_done, stopped_early
from raydfkd.pipeline.run.recorder import Recorder
from raydfkd.run_dir import RunDir
from raydfkd.runtime.coordinator_actor import CoordinatorActor
from raydfkd.runtime.failures import Failure, original
from raydfkd.runtime.generators.generator_pool_actor import GeneratorPoolActor
from raydfkd.runtime.preflight import amounts, decide_gpus, preflight, requested
from raydfkd.runtime.ray_session import session, whereabouts
from raydfkd.runtime.replay.replay_actor import SNAPSHOT, ReplayActor
from raydfkd.runtime.run_context import RunContext
from raydfkd.runtime.run_follower import LogFollower
from raydfkd.runtime.students.stopping import OrphanWatch, StopWatch
from raydfkd.runtime.students.student_trainer import TRAIN_FOLDER, train_student
from raydfkd.runtime.students.weight_store_actor import WeightStoreActor

logger = logging.getLogger(__name__)

POLL_S = 0.2
CLOSE_TIMEOUT_S = 20.0
STUDENT_END_S = 30.0
"""How long a failed run waits for its students' groups, which nothing else would end if Ray keeps running."""
LAST_CALL_S = 5.0
"""The same if Ray ends with the run: a thread still in a call to Ray during Ray's shutdown may crash the process."""
PLACED_BYTES = 1 << 20


def run_ray(config: ExperimentConfig, run: RunDir, recorder: Recorder, resume_from: Path | None) -> None:
    """Runs the experiment to its end; the last checkpoint in ``run`` holds its outcome.

    Args:
        resume_from: a checkpoint folder to continue from, None to start afresh.

    Raises:
        ResourceError: the cluster cannot place it.
        RaydfkdError: the first one raised anywhere in the run.
        RunFailedError: it failed, or died more often than ``runtime.max_restarts`` allows.
        RunStoppedError: ``raydfkd stop`` or a signal asked for it.
    """
    # Absolute, because Ray Train's workers have a working directory of their own.
    context = RunContext(config, run.path.absolute(), None if resume_from is None else resume_from.absolute())
    recorder.stage("starting Ray")
    with OrphanWatch(run, config.schedule.total_steps) as orphan, session(config) as ends_all:
        grouped = get_current_placement_group() is not None
        # A sweep's trial has what was reserved for it, which are the GPUs that its settings name.
        config, decided = decide_gpus(config, 0 if grouped else ray.cluster_resources().get("GPU", 0))
        preflight(config)
        if decided is not None:
            recorder.event(decided)
        context = replace(context, config=config, grouped=grouped)
        _clean(run)
        run.update_manifest(actors=context.prefix, ray=whereabouts())
        with _forgotten_at_the_end(run), _actors(context) as actors, stop_signals.deferred(orphan.begin):
            num_workers = sum(student.num_workers for student in config.students.values())
            recorder.stage("starting", f"{len(config.generators)} generators, {num_workers} student workers")
            _drive(context, recorder, actors, patient=not ends_all)
    _clean(run)


def _clean(run: RunDir) -> None:
    """Removes what is only useful while the actors are alive."""
    for folder in (TRAIN_FOLDER, SNAPSHOT):
        shutil.rmtree(run.path / folder, ignore_errors=True)


@contextlib.contextmanager
def _forgotten_at_the_end(run: RunDir) -> Iterator[None]:
    """The manifest names actors only while they are alive; a failure to write this must not hide what ended the run."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, RunDirError):
            run.update_manifest(actors=None, ray=None)
        raise
    run.update_manifest(actors=None, ray=None)


@contextlib.contextmanager
def _actors(context: RunContext) -> Iterator[dict[str, Any]]:
    """The run's actors, by role. They end in order: no more admissions, generators drain, streams close, the rest is killed."""
    restarts = context.config.runtime.max_restarts
    classes: dict[str, Any] = {
        "coordinator": CoordinatorActor,
        "replay": ReplayActor,
        "weights": WeightStoreActor,
        "pool": GeneratorPoolActor,
    }
    actors: dict[str, Any] = {}
    try:
        for role, actor in classes.items():
            options = {"name": context.name_of(role), "max_restarts": restarts, **_place(context, role)}
            actors[role] = actor.options(**options).remote(context)
        yield actors
    finally:
        _close(actors)


def _place(context: RunContext, role: str) -> dict[str, Any]:
    """Places them on the driver's node unless the experiment sets otherwise; those of a sweep's trial in its placement group.

    Ray puts an actor without resource requests on a random node, whatever its scheduling strategy, and that node may be
    released at any time. So these request a little memory.
    """
    needed = context.config.runtime.placement.get(role)  # type: ignore[call-overload]
    if needed is not None:
        return {"resources": dict(needed), "scheduling_strategy": "DEFAULT"}
    if context.grouped:
        return {}  # Outside the group, the pool's generators would be placed outside it too.
    here = ray.get_runtime_context().get_node_id()
    return {"memory": PLACED_BYTES, "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=True)}


def _close(actors: dict[str, Any]) -> None:
    steps: list[tuple[str, str, Callable[[Any], Any]]] = [
        ("replay", "stopping the generators", lambda replay: replay.stop_admitting.remote()),
        ("pool", "draining the generators", lambda pool: pool.close.remote(CLOSE_TIMEOUT_S)),
        ("replay", "closing the streams", lambda replay: replay.close.remote()),
    ]
    for role, what, step in steps:
        if role not in actors:
            continue
        try:
            ray.get(step(actors[role]), timeout=CLOSE_TIMEOUT_S + 5)
        except (RayError, GetTimeoutError) as error:
            logger.info("%s: %s", what, type(error).__name__)
    for actor in reversed(actors.values()):
        ray.kill(actor)


class _StudentGroup:
    """One student's workers, run by Ray Train in a thread of the driver."""

    def __init__(self, context: RunContext, student: str) -> None:
        self.student = student
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(context,), name=f"student group {student}", daemon=True)
        self._thread.start()

    def _run(self, context: RunContext) -> None:
        try:
            train_student(context, self.student)
        except BaseException as error:  # Passed to the driver's own thread, which raises it.
            self.error = error

    def ended_within(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()


def _all_ended_within(groups: list[_StudentGroup], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    return all(group.ended_within(max(0.0, deadline - time.monotonic())) for group in groups)


def _failure_of(groups: list[_StudentGroup], context: RunContext) -> Failure | None:
    """Of a group that ended with an error of Ray Train's; the others would wait for it forever."""
    for group in groups:
        if group.ended_within(0) and group.error is not None:
            return _of_the_group(group.error, context, group.student)
    return None


def _drive(context: RunContext, recorder: Recorder, actors: dict[str, Any], patient: bool) -> None:
    """Starts generators and students in parallel, and follows the run until the students' groups have ended.

    Args:
        patient: after a failure, wait longer for the groups to end, because nothing else would end them.
    """
    follower, stop = LogFollower(recorder, actors), StopWatch(actors, context.config.runtime.wait_timeout_s)
    groups = [_StudentGroup(context, student) for student in context.config.students]
    actors["pool"].start.remote()
    try:
        failure, overdue = None, False
        while failure is None and not overdue and not _all_ended_within(groups, POLL_S):
            failure, overdue = follower.follow() or _failure_of(groups, context), stop.is_overdue()
        if failure is None:
            failure = follower.follow(last=True) or _failure_of(groups, context)
        if stop.is_ray_gone or (failure is not None and stop_signals.requested()):
            if failure is not None:
                logger.warning("after the signal: %s", failure.sentence)
            actors.clear()  # The signal ended them too.
            raise stopped_early(context.run, context.config.schedule.total_steps)
        if failure is not None:
            failure.raise_again()
        if context.run.latest_checkpoint() is None or steps_done(context.run) < context.config.schedule.total_steps:
            # Students end before the end of the schedule only because of a stop.
            stop.keep_preparation()
            raise stopped_early(context.run, context.config.schedule.total_steps)
    finally:
        if actors and not _all_ended_within(groups, 0):
            # Whatever the reason, nothing must wait for this run any more.
            actors["replay"].abort.remote("the run was stopped")
            if not _all_ended_within(groups, STUDENT_END_S if patient else LAST_CALL_S) and patient:
                logger.warning("the student workers do not end within %.0f s and are abandoned", STUDENT_END_S)


def _of_the_group(error: BaseException, context: RunContext, student: str) -> Failure:
    """The error for Ray Train's own failure: workers that died too often, or that could not be placed."""
    who = f"the {context.config.label_of(student)} workers"
    if isinstance(error, WorkerGroupError):
        restarts = context.config.runtime.max_restarts
        causes = "; ".join(f"worker {rank}: {_first_line(original(cause))}" for rank, cause in error.worker_failures.items())
        sentence = f"{who} died more often than runtime.max_restarts {restarts} allows ({causes})"
    elif "startup timed out" in str(error):  # The class of the controller's failure is Ray's own.
        waited_s, settings = context.config.runtime.wait_timeout_s, context.config.students[student]
        sentence = (
            f"{who} could not be placed within {waited_s:g} s: {settings.num_workers} are required, and each needs "
            f"{amounts(requested(settings.resources))} on a node; add nodes, then resume"
        )
    else:
        sentence = f"{who} could not be started ({_first_line(error)})"
    return Failure.of(RunFailedError(sentence), who)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
