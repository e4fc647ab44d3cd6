"""One run from its first check to its result, whichever runner drives it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raydfkd.errors import RaydfkdError
from raydfkd.pipeline import builder
from raydfkd.pipeline.config import ExperimentConfig
from raydfkd.pipeline.local_runner import run_local
from raydfkd.pipeline.outcome import finish
from raydfkd.pipeline.recorder import Recorder, Watcher, describe_environment
from raydfkd.run_dir import RunDir

logger = logging.getLogger(__name__)

Runner = Callable[[ExperimentConfig, RunDir, Recorder, Path | None], None]


def execute(config: ExperimentConfig, run: RunDir, *, resume: bool, watcher: Watcher | None, run_ray: Runner) -> dict[str, Any]:
    """Checks, runs and finishes an experiment; the manifest says at every moment how it stands.

    Args:
        run: its directory, opened.
        resume: go on from the latest checkpoint (from the beginning if there is none yet).
        run_ray: the Ray runner, handed in because this room does not know Ray.
    """
    watcher = Watcher() if watcher is None else watcher
    watcher.stage("checking the teacher")
    checkpoint = run.latest_checkpoint() if resume else None
    elapsed_s = _rewind(run, checkpoint) if resume else 0.0
    recorder = Recorder(config, run, watcher, elapsed_s)
    try:
        teacher = builder.build_frozen_teacher(config)
        builder.audit(config, teacher)
        device = builder.choose_device(config) if config.runtime.runner == "local" else builder.choose_device(config, "cpu")
        _write_manifest(config, run, teacher.state_sha256())
        if resume:
            recorder.event(f"resumed from {checkpoint.name if checkpoint is not None else 'the beginning'}")
        runner = run_local if config.runtime.runner == "local" else run_ray
        runner(config, run, recorder, checkpoint)
        recorder.stage("finishing")
        result = finish(config, run, recorder.elapsed_s, device)
        run.update_manifest(state="finished")
        watcher.finish(result)
        return result
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        if run.manifest_path.exists():
            run.update_manifest(state="stopped" if stopped else "failed", error=str(error) or type(error).__name__)
        elif isinstance(error, RaydfkdError):
            _remove_unstarted(run)
        raise
    finally:
        recorder.close()


def _write_manifest(config: ExperimentConfig, run: RunDir, teacher_sha256: str) -> None:
    splits = []
    if config.evaluation is not None:
        dataset = config.evaluation.dataset
        where = getattr(dataset, "path", getattr(dataset, "name", dataset.kind))
        splits.append({"dataset": str(where), "split": dataset.split, "purpose": "evaluation only"})
    run.update_manifest(
        state="running",
        seed=config.runtime.seed,
        teacher_sha256=teacher_sha256,
        data_splits_read=splits,
        **describe_environment(),
    )


def _rewind(run: RunDir, checkpoint: Path | None) -> float:
    """Drops the records made after the checkpoint, except events; returns the seconds already spent."""
    step = 0 if checkpoint is None else int(checkpoint.name.removeprefix("step-"))
    records = list(run.metrics())
    kept = [r for r in records if r["kind"] == "event" or r["step"] <= step]
    if len(kept) < len(records):
        import json

        from raydfkd.run_dir import write_atomically

        write_atomically(run.metrics_path, "".join(json.dumps(r) + "\n" for r in kept))
    return max((r["time_s"] for r in records), default=0.0)


def _remove_unstarted(run: RunDir) -> None:
    """A run refused before it began leaves no directory behind that would block the corrected try."""
    for folder in (run.checkpoints, run.samples, run.analysis):
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
    for path in (run.config_path, run.metrics_path):
        path.unlink(missing_ok=True)
    if not any(run.path.iterdir()):
        run.path.rmdir()
