"""A sweep's beginning and end on disk: the resolved files, best.yaml and result.json."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import yaml

from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.pipeline.sweep.config import EvaluationObjectiveConfig, Sweep
from raydfkd.pipeline.sweep.trial import TrialPlan
from raydfkd.run_dir import write_atomically
from raydfkd.sweep_dir import SweepDir, Trial, best_of
from raydfkd.tasks import build_task


class SweepWatcher:
    """Observer of a live sweep (the command line's table); this one does nothing."""

    def stage(self, name: str, detail: str = "") -> None: ...

    def begin(self, num_trials: int, concurrent: int) -> None: ...

    def update(self, trial: str, **values: Any) -> None:
        """Update of a trial: those of ``settings``, ``state``, ``step``, ``objective`` and ``error`` that changed."""

    def finish(self, result: dict[str, Any]) -> None: ...


def write_beginning(sweep: Sweep, folder: SweepDir) -> None:
    """Writes sweep.yaml, experiment.yaml and the manifest of a new sweep."""
    write_atomically(folder.experiment_path, _dump(sweep.tree))
    beside = Path(folder.experiment_path.name)  # so that the folder can be moved
    resolved = sweep.config.model_copy(update={"experiment": beside, "overrides": {}})
    write_atomically(folder.sweep_path, dump_yaml(resolved))
    plan = TrialPlan(sweep, folder.path.absolute())
    folder.update_manifest(
        state="running",
        error=None,
        began_at=str(folder.path.absolute()),
        num_trials=sweep.num_trials,
        objective={
            "record": plan.record,
            "field": plan.field,
            "student": sweep.student_name,
            "mode": sweep.mode,
            **describe_objective(sweep),
        },
        search=sweep.config.search.kind,
        scheduler=sweep.config.scheduler.kind,
        total_steps=sweep.base.schedule.total_steps,
    )


def begin(folder: SweepDir) -> float:
    """Records that the sweep starts or resumes now, and returns that Unix time.

    For an earlier start that was killed before recording its duration, the time up to its last record counts.
    """
    manifest = folder.manifest()
    elapsed_s, since = float(manifest.get("elapsed_s", 0.0)), manifest.get("running_since")
    if since is not None:
        written = (path.stat().st_mtime for path in folder.trials_path.glob("*/metrics.jsonl"))
        elapsed_s += max(0.0, max(written, default=since) - since)
    now = time.time()
    folder.update_manifest(running_since=now, elapsed_s=elapsed_s)
    return now


def describe_objective(sweep: Sweep) -> dict[str, str]:
    """``label`` (what the figure is) and ``measured_on`` (which images, and whether they are labelled)."""
    objective = sweep.config.objective
    which = "averaged student" if objective.student == "ema" else "last student"
    which = which if len(sweep.base.students) == 1 else f"{which} {sweep.student_name}"
    if isinstance(objective, EvaluationObjectiveConfig):
        assert sweep.base.evaluation is not None
        dataset = sweep.base.evaluation.dataset
        return {
            "label": f"{build_task(sweep.base.task).metric_label} ({which})",
            "measured_on": f"labelled evaluation data ({dataset.kind}, split {dataset.split}): settings were chosen on real "
            "labels, so a score on the same data is optimistic, and the outcome is not data-free",
        }
    what = "agreement with the teacher" if objective.kind == "agreement" else "KL from the teacher, nats"
    return {
        "label": f"{what} ({which})",
        "measured_on": f"{objective.num_images} held-out images without labels, made for this sweep and the same for all its "
        "trials, on which no trial trains",
    }


def write_end(sweep: Sweep, folder: SweepDir, state: str, began: float) -> dict[str, Any]:
    """Writes best.yaml and result.json; returns the result.

    Args:
        state: finished or stopped.
        began: Unix time of this start of the sweep.
    """
    trials = folder.trials()
    best = best_of(trials, sweep.mode)
    if best is not None:
        write_atomically(folder.best_path, dump_yaml(sweep.experiment_of(best.settings)))
    manifest = folder.manifest()
    elapsed_s = float(manifest.get("elapsed_s", 0.0)) + time.time() - began
    objective = manifest["objective"]
    result = {
        "state": state,
        "objective": {"name": objective["field"], "mode": objective["mode"], "label": objective["label"]},
        "measured_on": objective["measured_on"],
        "search": sweep.config.search.kind,
        "scheduler": sweep.config.scheduler.kind,
        "num_trials": sweep.num_trials,
        "num_finished": sum(trial.state == "finished" for trial in trials),
        "num_stopped": sum(trial.state == "stopped" for trial in trials),
        "num_failed": sum(trial.state == "failed" for trial in trials),
        "elapsed_s": round(elapsed_s, 1),
        "best": None if best is None else best.name,
        "best_objective": None if best is None else best.objective,
        "best_settings": None if best is None else best.settings,
        "trials": [_row(trial) for trial in trials],
    }
    folder.write_result(result)
    folder.update_manifest(state=state, elapsed_s=elapsed_s, running_since=None)
    return result


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "name": trial.name,
        "state": trial.state,
        "objective": trial.objective,
        "student_steps": trial.last_step,
        "time_s": trial.time_s,
        "settings": trial.settings,
        "error": trial.error,
        "run_dir": f"trials/{trial.name}",
    }


def _dump(tree: dict[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)
