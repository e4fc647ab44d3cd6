"""Student workers under Ray Train: each runs the same ``StudentLoop`` with a ``ReplayClient`` for its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from raydfkd.pipeline import builder, checkpoints
from raydfkd.pipeline.config import ExperimentConfig
from raydfkd.pipeline.student_loop import LoopHooks, StudentLoop
from raydfkd.run_dir import RunDir
from raydfkd.runtime.calls import call
from raydfkd.runtime.replay_client import ReplayClient
from raydfkd.runtime.session import requested


def train_student(config: ExperimentConfig, run: RunDir, actors: dict[str, Any]) -> None:
    """Runs the student's worker group to the end of the schedule; blocks.

    Args:
        actors: ``replay``, ``weight_store``, ``pool`` and ``log`` handles.
    """
    student = config.student
    need = requested(student.resources)
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"config": config, "run_path": run.path, **actors},
        scaling_config=ray.train.ScalingConfig(
            num_workers=student.num_workers, use_gpu=student.resources.num_gpus > 0, resources_per_worker=need
        ),
        run_config=ray.train.RunConfig(
            name="student",
            storage_path=str(run.path / "train"),
            failure_config=ray.train.FailureConfig(max_failures=config.runtime.max_restarts, controller_failure_limit=1),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    trainer.fit()


def _worker(settings: dict[str, Any]) -> None:
    config: ExperimentConfig = settings["config"]
    run = RunDir(Path(settings["run_path"]))
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    resources = config.student.resources
    torch.set_num_threads(builder.threads_of(resources.num_cpus, resources.num_threads))
    assigned = ray.train.torch.get_device()
    device = builder.choose_device(config, "cpu" if assigned.type == "cpu" else str(assigned))
    distiller = builder.build_distiller(config, device)
    folder = run.latest_checkpoint()
    if folder is not None:
        checkpoints.load_student(folder, distiller)
    attempt = _attempt(settings["log"], rank, world_size)
    if rank == 0 and attempt > 0:
        message = f"student workers were restarted from step {distiller.num_steps}"
        settings["log"].push.remote("event", distiller.num_steps, {"message": message, "restart": True})
    if world_size > 1:
        distiller.wrap_student(torch.nn.parallel.DistributedDataParallel)
    source = ReplayClient(
        config, settings["replay"], settings["weight_store"], str(attempt), rank, world_size, distiller.num_steps, device
    )
    evaluator = builder.build_evaluator(config, distiller.teacher, device) if rank == 0 else None
    hooks = _hooks(config, run, settings, distiller)
    StudentLoop(config, distiller, source, hooks, evaluator, rank).run()


def _attempt(log: Any, rank: int, world_size: int) -> int:
    """How often the group has started before, the same on all its workers."""
    attempt = torch.tensor(ray.get(log.begin_session.remote(), timeout=60) if rank == 0 else 0)
    if world_size > 1:
        torch.distributed.broadcast(attempt, 0)
    return int(attempt)


def _hooks(config: ExperimentConfig, run: RunDir, settings: dict[str, Any], distiller: Any) -> LoopHooks:
    timeout_s = config.runtime.wait_timeout_s

    def emit(kind: str, step: int, **values: Any) -> None:
        settings["log"].push.remote(kind, step, values)

    def save(step: int) -> None:
        with checkpoints.writing(run, step) as folder:
            pool, replay = settings["pool"], settings["replay"]
            generators = pool.save.remote(folder)
            checkpoints.save_student(folder, distiller)
            call(lambda: replay.save.remote(folder), timeout_s, "the replay actor to write a checkpoint")
            ray.get(generators, timeout=timeout_s)

    return LoopHooks(emit, save)
