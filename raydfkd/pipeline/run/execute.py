"""One run from its first check to its result, with any runner."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raydfkd.data.checksums import checksum_of
from raydfkd.data.collected import CollectedImages
from raydfkd.data.dataset_kind import DatasetConfig
from raydfkd.errors import CheckpointError, DiskFullError, RaydfkdError, RunStoppedError, RunTakenOverError, TeacherError
from raydfkd.metrics import STUDENT_KINDS
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.changes import Changes, described, latest, resumable
from raydfkd.pipeline.experiment.config import ExperimentConfig, generator_id, load_experiment
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.pipeline.run import checkpoints, collecting
from raydfkd.pipeline.run.exchange_state import build_exchange, load_exchange
from raydfkd.pipeline.run.local_runner import run_local
from raydfkd.pipeline.run.outcome import finish
from raydfkd.pipeline.run.recorder import Recorder, Watcher, describe_environment
from raydfkd.run_dir import RunDir, write_atomically
from raydfkd.synthesis.methods import METHODS
from raydfkd.tasks import build_task

Runner = Callable[[ExperimentConfig, RunDir, Recorder, Path | None], None]

TIMELESS_RECORDS = ("event", "generators")
"""Kinds of records about the run's processes, which a resume does not undo."""


def execute(
    config: ExperimentConfig,
    run: RunDir,
    *,
    resume: bool,
    watcher: Watcher | None,
    run_ray: Runner,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Checks, runs and finishes an experiment; the manifest always holds its current state.

    Args:
        run: its directory, opened.
        resume: continue from the latest checkpoint (from the beginning if there is none yet). Settings that differ from those
            recorded in the directory are recorded in their place.
        run_ray: the Ray runner, passed in because this package does not import Ray.
        overrides: ``a.b=c`` settings that ``config`` has on top of its file, for the manifest.

    Raises:
        ConfigError: a resume would change a setting that it cannot.
    """
    watcher = Watcher() if watcher is None else watcher
    checkpoint = run.latest_checkpoint() if resume else None
    changes: Changes = {}
    if resume:
        recorded = load_experiment(run.config_path).model_dump(mode="json")
        changes = resumable(recorded, config.model_dump(mode="json"), run.path)
    watcher.stage("checking the teacher")
    try:
        # On a cluster the actors own the GPUs; a Ray that the run starts has none of them yet, and none of them any more.
        here = config.runtime.runner == "local" or (config.runtime.address is None and torch.cuda.is_available())
        device = builder.choose_device(config) if here else torch.device("cpu")
        checked = _check(config, run, checkpoint, device)
        elapsed_s = 0.0
        if resume:
            _require_same_teacher(run, checked.teacher_sha256)
            elapsed_s = _rewind(run, checkpoint)
            write_atomically(run.config_path, dump_yaml(config))
    except BaseException:
        if not resume:  # a resumed run keeps its files
            _remove_unstarted(run)
        raise
    try:
        _write_manifest(config, run, checked.teacher_sha256, overrides)
        recorder = Recorder(config, run, watcher, elapsed_s)
        try:
            if not resume:
                for warning in checked.warnings:
                    recorder.event(f"warning: {warning}")
            if checked.collected is not None:
                _announce(config, run, recorder, checked.collected)
            if resume:
                recorder.event(f"resumed from {checkpoint.name if checkpoint is not None else 'the beginning'}")
            if changes:
                recorder.event(f"settings changed: {', '.join(described(changes))}")
            runner = run_local if config.runtime.runner == "local" else run_ray
            runner(config, run, recorder, checkpoint)
            recorder.stage("finishing")
            result = finish(config, run, recorder.elapsed_s, device)
            recorder.finished = True
        finally:
            recorder.close()
    except BaseException as error:
        full = DiskFullError.of(error, f"run directory {run.path} cannot be written to")
        _mark_end(run, full or error, resume)
        if full is not None:
            raise full from error
        raise
    shutil.rmtree(run.preparation, ignore_errors=True)  # only needed by a resume
    run.update_manifest(state="finished")
    watcher.finish(result)
    return result


def _mark_end(run: RunDir, error: BaseException, resume: bool) -> None:
    """Records in the manifest how the run ended; a failure to write must not hide the original error."""
    with suppress(OSError):
        if isinstance(error, RunTakenOverError):
            return
        if isinstance(error, RunStoppedError):
            run.update_manifest(state="stopped")
        elif not resume and _is_refusal(error) and all(record["kind"] == "event" for record in run.metrics()):
            _remove_unstarted(run)
        else:
            state = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
            run.update_manifest(state=state, error=str(error) or type(error).__name__)


@dataclass(frozen=True)
class _Checked:
    """The teacher's hash, the collected images if the run has not stored them yet, and what looks wrong."""

    teacher_sha256: str
    collected: CollectedImages | None
    warnings: tuple[str, ...]


def _check(config: ExperimentConfig, run: RunDir, checkpoint: Path | None, device: torch.device) -> _Checked:
    """Builds everything that user settings can break, before anything starts.

    Raises:
        RaydfkdError: schedule, teacher, student, generators, collected or evaluation data or checkpoint is unusable.
    """
    exchange = build_exchange(config)
    teacher = builder.build_frozen_teacher(config)
    warnings = list(builder.audit(config, teacher).warnings)
    for name in config.students:
        warnings += builder.try_student(config, teacher, name, device)
    kept = collecting.read(run)
    collected = collecting.collect(config, teacher, device) if kept is None else None
    images = kept if collected is None else collected.batch
    for source, index in config.generators:
        # Generators of one source differ only in their seed and their checkpointed state.
        if index == 0 or checkpoint is not None:
            synthesizer = builder.build_synthesizer(config, source, index, device, images)
            if checkpoint is not None:
                checkpoints.load_generator(checkpoint, generator_id(source, index), synthesizer)
    evaluator = builder.build_evaluator(config, teacher, device)
    if evaluator is not None and checkpoint is None:
        warnings += builder.warnings_on(config, teacher, evaluator, device)
    builder.build_held_out(config, teacher, device)
    if checkpoint is not None:
        load_exchange(checkpoint, exchange)
        for name in config.students:
            distiller = builder.build_distiller(config, device, name)
            checkpoints.load_student(checkpoint, name, distiller)
            if distiller.num_steps > config.schedule.total_steps:
                raise CheckpointError(
                    f"the run in {run.path} has done {distiller.num_steps} student steps and schedule.rounds "
                    f"{config.schedule.rounds} gives {config.schedule.total_steps}: resume with at least the original rounds"
                )
    return _Checked(teacher.state_sha256(), collected, tuple(warnings))


def _require_same_teacher(run: RunDir, teacher_sha256: str) -> None:
    before = run.manifest().get("teacher_sha256") if run.manifest_path.exists() else None
    if before not in (None, teacher_sha256):
        raise TeacherError(
            f"the run in {run.path} began with a teacher of sha256 {before[:12]}, which is now {teacher_sha256[:12]}: "
            "resume with the same weights, or start another run with another --out"
        )


def _announce(config: ExperimentConfig, run: RunDir, recorder: Recorder, collected: CollectedImages) -> None:
    collecting.write(run, collected)
    recorder.stage("collected images", collected.describe())
    for warning in collecting.warnings_of(config, collected):
        recorder.event(f"warning: {warning}")


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, RaydfkdError) and error.exit_code == 2


def _write_manifest(config: ExperimentConfig, run: RunDir, teacher_sha256: str, overrides: Sequence[str]) -> None:
    splits = []
    if config.evaluation is not None:
        splits.append(_split_read(config.evaluation.dataset, "evaluation only"))
    if config.held_out is not None:
        splits.append({"dataset": str(config.held_out.path), "split": "held out", "purpose": "agreement with the teacher only"})
    if config.collected is not None:
        labels = "labels read" if config.collected.labels == "dataset" else "labels not read"
        splits.append(_split_read(config.collected.dataset, f"training, as collected images; {labels}"))
    for source in config.sources.values():
        splits += [_split_read(dataset, "training, source of images; labels not read") for dataset in source.datasets_read]
    figures = {f.title: f for source in config.sources.values() for f in METHODS.get(source.method).figures}
    task = build_task(config.task)
    run.update_manifest(
        state="running",
        error=None,
        seed=config.runtime.seed,
        overrides=latest([*(run.manifest().get("overrides", []) if run.manifest_path.exists() else []), *overrides]),
        teacher_sha256=teacher_sha256,
        data_splits_read=splits,
        metric_name=task.metric_name,
        metric_label=task.metric_label,
        **({} if config.reproduces is None else {"name": config.reproduces.recorded()["title"]}),
        figures=[figure.as_json() for figure in figures.values()],
        **describe_environment(),
    )


def _split_read(dataset: DatasetConfig, purpose: str) -> dict[str, str | None]:
    return {"dataset": dataset.location, "split": dataset.split, "purpose": purpose, "sha256": checksum_of(dataset)}


def _rewind(run: RunDir, checkpoint: Path | None) -> float:
    """Drops the records made after the checkpoint, except those about processes; returns the seconds already spent.

    A checkpoint is taken at the beginning of a round: of the records of its own step, the student's were made before it, and
    those of the round's synthesis after it, so the latter will be made again.
    """
    step = 0 if checkpoint is None else int(checkpoint.name.removeprefix("step-"))
    if run.result_path.exists():  # a finished run that is prolonged: its result stays readable under another name
        run.result_path.replace(run.earlier_result_path(step))
    records = list(run.metrics())
    kept = [
        r
        for r in records
        if r["kind"] in TIMELESS_RECORDS or r["step"] < step or (r["step"] == step and r["kind"] in STUDENT_KINDS)
    ]
    if len(kept) < len(records):
        write_atomically(run.metrics_path, "".join(json.dumps(r) + "\n" for r in kept))
    return max((r["time_s"] for r in records), default=0.0)


def _remove_unstarted(run: RunDir) -> None:
    """A run rejected before it began leaves no directory behind that would block the next attempt."""
    for folder in (run.checkpoints, run.samples, run.analysis):
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
    for path in (run.config_path, run.metrics_path, run.manifest_path, run.collected_path):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # it holds something else, or its owner's file, whose end removes the folder
        run.path.rmdir()
