"""Student workers under Ray Train: each runs the same ``StudentLoop`` with a ``ReplayClient`` for its source."""

from __future__ import annotations

import os
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from raydfkd.distillation.distiller import Distiller
from raydfkd.models import flat_weights
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run import checkpoints
from raydfkd.pipeline.run.few_shot_stage import run_few_shot_stage
from raydfkd.pipeline.run.messages import NotYet
from raydfkd.pipeline.run.student_loop import LoopHooks, StudentLoop
from raydfkd.runtime.calls import call
from raydfkd.runtime.failures import Failure
from raydfkd.runtime.preflight import requested
from raydfkd.runtime.replay.replay_client import ReplayClient
from raydfkd.runtime.run_context import RunContext
from raydfkd.runtime.students.checkpoint_meeting import CheckpointMeeting
from raydfkd.runtime.students.stopping import StopAsker

FAILURE_GRACE_S = 5.0
MEET_WAIT_S = 2.0
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
ELASTIC_START_TIMEOUT_S = 60.0
START_TRIES = 2
"""How long a worker group may lack resources, or lose its node while starting, before the run fails."""
TRAIN_FOLDER = "train"
"""Ray Train's own folder in the run directory; removed at the end of the run."""


def train_student(context: RunContext, name: str) -> None:
    """Runs one student's worker group to the end of the schedule; blocks.

    Ray Train restarts a worker that dies. A worker that raises an error would only raise it again: the error is reported to
    the run's coordinator, and the group ends as if it had finished.

    Raises:
        ray.train.TrainingFailedError: the group died too often or could not be placed.
    """
    config, student = context.config, context.config.students[name]
    # How long Ray Train waits for a group's resources; its default of a minute is too short for a new node to start.
    patience_s, start_s = config.runtime.wait_timeout_s, start_timeout_s(config)
    os.environ[START_TIMEOUT] = str(start_s)
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"context": context, "student": name},
        scaling_config=ray.train.ScalingConfig(
            num_workers=(student.fewest_workers, student.num_workers) if student.elastic else student.num_workers,
            elastic_resize_monitor_interval_s=student.resize_period_s,
            use_gpu=student.resources.gpus > 0,
            resources_per_worker=requested(student.resources),
        ),
        run_config=ray.train.RunConfig(
            name=f"student-{name}",
            storage_path=str(context.path / TRAIN_FOLDER),
            failure_config=ray.train.FailureConfig(
                max_failures=config.runtime.max_restarts,
                # An elastic group may start with more nodes than are left, before Ray has noticed that one is gone.
                controller_failure_limit=config.runtime.max_restarts if student.elastic else round(patience_s / start_s) - 1,
            ),
            callbacks=[_GroupWatch(context, name)] if student.elastic else [],
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    trainer.fit()


def start_timeout_s(config: ExperimentConfig) -> float:
    """Timeout of one attempt to start a worker group. An elastic group soon tries again with fewer workers.

    Ray Train reads it from the environment, so it is the same for all groups of a run.
    """
    whole = config.runtime.wait_timeout_s / START_TRIES
    elastic = any(student.elastic for student in config.students.values())
    return min(whole, ELASTIC_START_TIMEOUT_S) if elastic else whole


class _GroupWatch(ray.train.UserCallback):
    """Notifies the run's coordinator when an elastic group has lost workers; called in Ray Train's controller."""

    def __init__(self, context: RunContext, student: str) -> None:
        self._context = context
        self._student = student

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        self._context.actor("coordinator").note_workers_lost.remote(self._student)


def _worker(settings: dict[str, Any]) -> None:
    context: RunContext = settings["context"]
    student: str = settings["student"]
    coordinator, rank = context.actor("coordinator"), ray.train.get_context().get_world_rank()
    if _failure(context) is not None:
        return  # The group was restarted although the run is over.
    try:
        _train(context, student)
    except Exception as error:
        if _lost_a_peer(error) and _failure(context, FAILURE_GRACE_S) is None:
            raise
        failure = Failure.of(error, f"{context.config.label_of(student)} worker {rank}")
        call(lambda: coordinator.fail.remote(failure), context.config.runtime.wait_timeout_s, "the run's coordinator")
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # Wakes the other workers, which are waiting for this one.


def _failure(context: RunContext, patience_s: float = 0.0) -> Failure | None:
    """The run's failure, if there is one within ``patience_s`` seconds."""
    coordinator = context.actor("coordinator")
    for _ in range(1 + round(patience_s / 0.5)):
        failure: Failure | None = call(
            coordinator.failure.remote, context.config.runtime.wait_timeout_s, "the run's coordinator"
        )
        if failure is not None or patience_s == 0:
            return failure
        time.sleep(0.5)
    return None


def _lost_a_peer(error: Exception) -> bool:
    """Whether a collective failed only because another worker is gone, so that the cause is the other worker's failure."""
    text = str(error).lower()
    collective = any(word in text for word in ("gloo", "nccl", "connection", "broken pipe", "timed out"))
    return isinstance(error, RuntimeError) and collective and ray.train.get_context().get_world_size() > 1


def _train(context: RunContext, student: str) -> None:
    place = ray.train.get_context()
    rank, world_size = place.get_world_rank(), place.get_world_size()
    config, run = _with_workers(context.config, student, world_size), context.run
    torch.set_num_threads(config.students[student].resources.threads)
    assigned = ray.train.torch.get_device()
    device = builder.choose_device(config, "cpu" if assigned.type == "cpu" else str(assigned))
    distiller = builder.build_distiller(config, device, student)
    folder = run.latest_checkpoint()
    replay, weights, coordinator = (context.actor(role) for role in ("replay", "weights", "coordinator"))
    if folder is not None:
        checkpoints.load_student(folder, student, distiller)
    elif config.students[student].few_shot is not None:
        run_few_shot_stage(config, run, student, distiller, partial(_emit, coordinator))
        # Generators are admitted as soon as this student is registered, and must find these weights.
        newest = flat_weights(distiller.student)
        call(lambda: weights.publish.remote(newest, 0, student), config.runtime.wait_timeout_s, "the weight store")
    step = distiller.num_steps
    attempt = _begin_attempt(context, student, rank, world_size, step)
    if world_size > 1:
        distiller.wrap_learner(torch.nn.parallel.DistributedDataParallel)
    source = ReplayClient(config, replay, weights, attempt, rank, world_size, step, device, student)
    distiller.notes += source.notes
    evaluator = builder.build_evaluator(config, distiller.teacher, device) if rank == 0 else None
    held_out = builder.build_held_out(config, distiller.teacher, device) if rank == 0 else None
    stop = StopAsker(coordinator, rank, world_size, student)
    hooks = _hooks(context, student, distiller, source, stop)
    StudentLoop(config, distiller, source, hooks, evaluator, rank, held_out, student).run()
    _failure(context)  # Calls of one caller keep their order: once this returns, the coordinator has all records.


def _with_workers(config: ExperimentConfig, student: str, number: int) -> ExperimentConfig:
    """The experiment for an elastic group with this number of workers, among which the batch is divided."""
    settings = config.students[student]
    if not settings.elastic:
        return config
    students = {**config.students, student: settings.model_copy(update={"num_workers": number})}
    return config.model_copy(update={"students": students})


def _begin_attempt(context: RunContext, student: str, rank: int, world_size: int, step: int) -> str:
    """A new name for this start of the group, the same on all its workers; a restart leaves a line in the log."""
    pids: list[Any] = [os.getpid()]
    name: list[Any] = [uuid.uuid4().hex]
    if world_size > 1:
        pids = [None] * world_size
        torch.distributed.all_gather_object(pids, os.getpid())
        torch.distributed.broadcast_object_list(name, 0)
    if rank == 0:
        coordinator, config = context.actor("coordinator"), context.config
        earlier = call(
            lambda: coordinator.begin_attempt.remote(student, pids), config.runtime.wait_timeout_s, "the run's coordinator"
        )
        if earlier:
            number = f", {world_size} of them" if config.students[student].elastic else ""
            message = f"{config.label_of(student)} workers were restarted from step {step}{number}"
            coordinator.push.remote("event", step, {"message": message, "restart": True})
    return str(name[0])


def _hooks(context: RunContext, student: str, distiller: Distiller, source: ReplayClient, stop: StopAsker) -> LoopHooks:
    timeout_s = context.config.runtime.wait_timeout_s
    coordinator, pool, replay = context.actor("coordinator"), context.actor("pool"), context.actor("replay")

    def meet(name: str, step: int) -> NotYet | None:
        answer: NotYet | None = call(lambda: replay.meet.remote(name, step, MEET_WAIT_S), timeout_s, "the replay actor")
        return answer

    def save_shared(folder: Path) -> None:
        call(lambda: pool.save.remote(folder), timeout_s, "the generator pool to write a checkpoint")
        call(lambda: replay.save.remote(folder), timeout_s, "the replay actor to write a checkpoint")

    meeting = CheckpointMeeting(context.config, context.run, student, meet, save_shared, source.publish_again)

    def save(step: int) -> None:
        waited_s = meeting.save(step, distiller)
        if len(context.config.students) > 1:
            source.note_wait("student_wait_students_s", waited_s)

    return LoopHooks(partial(_emit, coordinator), save, stop)


def _emit(coordinator: Any, kind: str, step: int, **values: Any) -> None:
    coordinator.push.remote(kind, step, values)
