"""One run from its first check to its result, whichever runner drives it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raydfkd.errors import RaydfkdError
from raydfkd.pipeline import builder, checkpoints
from raydfkd.pipeline.config import ExperimentConfig, generator_id
from raydfkd.pipeline.exchange_state import build_exchange, load_exchange
from raydfkd.pipeline.local_runner import run_local
from raydfkd.pipeline.outcome import finish
from raydfkd.pipeline.recorder import Recorder, Watcher, describe_environment
from raydfkd.run_dir import RunDir, write_atomically

Runner = Callable[[ExperimentConfig, RunDir, Recorder, Path | None], None]

STUDENT_RECORDS = ("distillation", "throughput", "evaluation")


def execute(config: ExperimentConfig, run: RunDir, *, resume: bool, watcher: Watcher | None, run_ray: Runner) -> dict[str, Any]:
    """Checks, runs and finishes an experiment; the manifest says at every moment how it stands.

    Args:
        run: its directory, opened.
        resume: go on from the latest checkpoint (from the beginning if there is none yet).
        run_ray: the Ray runner, handed in because this room does not know Ray.
    """
    watcher = Watcher() if watcher is None else watcher
    checkpoint = run.latest_checkpoint() if resume else None
    watcher.stage("checking the teacher")
    try:
        # With Ray the GPUs are the actors'; the driver only checks and finishes.
        device = builder.choose_device(config) if config.runtime.runner == "local" else torch.device("cpu")
        teacher_sha256 = _check(config, checkpoint, device)
        elapsed_s = _rewind(run, checkpoint) if resume else 0.0
    except BaseException:
        if not resume:  # a run that goes on stays as it was
            _remove_unstarted(run)
        raise
    try:
        _write_manifest(config, run, teacher_sha256)
        recorder = Recorder(config, run, watcher, elapsed_s)
        try:
            if resume:
                recorder.event(f"resumed from {checkpoint.name if checkpoint is not None else 'the beginning'}")
            runner = run_local if config.runtime.runner == "local" else run_ray
            runner(config, run, recorder, checkpoint)
            recorder.stage("finishing")
            result = finish(config, run, recorder.elapsed_s, device)
        finally:
            recorder.close()
    except BaseException as error:
        if not resume and _is_refusal(error) and not any(run.metrics()):
            _remove_unstarted(run)
        else:
            state = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
            run.update_manifest(state=state, error=str(error) or type(error).__name__)
        raise
    run.update_manifest(state="finished")
    watcher.finish(result)
    return result


def _check(config: ExperimentConfig, checkpoint: Path | None, device: torch.device) -> str:
    """Builds what a user can have got wrong, before anything starts; returns the teacher's hash.

    Raises:
        RaydfkdError: schedule, teacher, student, generators, evaluation data or checkpoint cannot be used.
    """
    exchange = build_exchange(config)
    teacher = builder.build_frozen_teacher(config)
    builder.audit(config, teacher)
    builder.build_student(config)
    generators = {generator_id(*which): builder.build_generator_network(config, *which) for which in config.generators}
    builder.build_evaluator(config, teacher, device)
    if checkpoint is not None:
        load_exchange(checkpoint, exchange)
        checkpoints.load_student(checkpoint, builder.build_distiller(config, device))
        for name, network in generators.items():
            checkpoints.require_generator(checkpoint, name, network)
    return teacher.state_sha256()


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, RaydfkdError) and error.exit_code == 2


def _write_manifest(config: ExperimentConfig, run: RunDir, teacher_sha256: str) -> None:
    splits = []
    if config.evaluation is not None:
        dataset = config.evaluation.dataset
        where = getattr(dataset, "path", getattr(dataset, "name", dataset.kind))
        splits.append({"dataset": str(where), "split": dataset.split, "purpose": "evaluation only"})
    run.update_manifest(
        state="running",
        error=None,
        seed=config.runtime.seed,
        teacher_sha256=teacher_sha256,
        data_splits_read=splits,
        **describe_environment(),
    )


def _rewind(run: RunDir, checkpoint: Path | None) -> float:
    """Drops the records made after the checkpoint, except events; returns the seconds already spent.

    A checkpoint stands at a round's beginning: of the records of its own step the student's were made before it, and those of
    the synthesis for that round after it, so that they will be made again.
    """
    step = 0 if checkpoint is None else int(checkpoint.name.removeprefix("step-"))
    records = list(run.metrics())
    kept = [
        r for r in records if r["kind"] == "event" or r["step"] < step or (r["step"] == step and r["kind"] in STUDENT_RECORDS)
    ]
    if len(kept) < len(records):
        write_atomically(run.metrics_path, "".join(json.dumps(r) + "\n" for r in kept))
    return max((r["time_s"] for r in records), default=0.0)


def _remove_unstarted(run: RunDir) -> None:
    """A run refused before it began leaves no directory behind that would block the corrected try."""
    for folder in (run.checkpoints, run.samples, run.analysis):
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
    for path in (run.config_path, run.metrics_path, run.manifest_path):
        path.unlink(missing_ok=True)
    if not any(run.path.iterdir()):
        run.path.rmdir()
