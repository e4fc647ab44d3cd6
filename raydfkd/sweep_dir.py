"""The sweep directory: what a sweep writes, and what reads it (report, resume, the command line).

```
SWEEP/
  sweep.yaml           the resolved sweep; ``raydfkd sweep SWEEP/sweep.yaml`` repeats it
  experiment.yaml      the base experiment of the trials, with the sweep's overrides
  manifest.json        state, objective (``record`` and ``field`` of metrics.jsonl, ``mode`` min or max, ``label``,
                       ``measured_on``), ``num_trials``, notes
  held_out.parquet     the images that trials are compared on (replay/arrow.py), unless the objective is evaluation
  trials/NAME/         each trial's run directory (run_dir.py), and trial.json
  tune/                Ray Tune's own state, for --resume
  best.yaml            the best trial's experiment, for ``raydfkd run``
  result.json          the outcome
  sweep.html           the report
```

trial.json has ``name``, ``settings`` (dotted key to value), ``error`` (null, or why it failed) and ``copied``: for
population-based training, each checkpoint of another trial that it continued from (``step``, ``from``, ``settings`` since).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raydfkd.errors import RunDirError
from raydfkd.run_dir import RunDir, write_atomically


@dataclass(frozen=True)
class Trial:
    """The current state of one trial.

    Attributes:
        name: of its folder.
        settings: dotted key to value, the current ones.
        state: waiting, running, stopped (early, or with the sweep), failed or finished.
        error: why it failed, or None.
        steps: student steps that were measured.
        values: the objective at each of them.
        seconds: time of each, over all starts of the trial.
        copied: see trial.json.
    """

    name: str
    settings: dict[str, Any]
    state: str
    error: str | None = None
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    copied: list[dict[str, Any]] = field(default_factory=list)

    @property
    def objective(self) -> float | None:
        """The last measurement that is a number, or None."""
        return self.values[-1] if self.values and math.isfinite(self.values[-1]) else None

    @property
    def last_step(self) -> int:
        return self.steps[-1] if self.steps else 0

    @property
    def time_s(self) -> float:
        return self.seconds[-1] if self.seconds else 0.0


class SweepDir:
    """One sweep's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path) -> SweepDir:
        """Makes an empty sweep directory.

        Raises:
            RunDirError: it already holds a sweep or a run, or cannot be written.
        """
        sweep = cls(path)
        for held, what in ((sweep.sweep_path, "sweep"), (RunDir(sweep.path).metrics_path, "run")):
            if held.exists():
                advice = "continue it with --resume or choose another --out" if what == "sweep" else "choose another --out"
                raise RunDirError(f"sweep directory {sweep.path} holds a {what} already: {advice}")
        try:
            sweep.trials_path.mkdir(parents=True, exist_ok=True)
            (sweep.path / ".writable").write_text("")
            (sweep.path / ".writable").unlink()
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            raise RunDirError(f"sweep directory {sweep.path} {reason}: choose another --out") from error
        return sweep

    @classmethod
    def open(cls, path: str | Path) -> SweepDir:
        """Opens an existing sweep.

        Raises:
            RunDirError: there is none.
        """
        sweep = cls(path)
        if not sweep.sweep_path.is_file() or not sweep.manifest_path.is_file():
            lacking = "it lacks sweep.yaml or manifest.json"
            raise RunDirError(f"{sweep.path} is not a sweep directory ({lacking}): give the --out of a started sweep")
        return sweep

    def remove_unstarted(self) -> None:
        """Removes the files of a sweep that was rejected before its first trial, so that a corrected one can start."""
        for path in (self.sweep_path, self.experiment_path, self.manifest_path, self.held_out_path):
            path.unlink(missing_ok=True)
        for folder in (self.trials_path, self.path):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    @property
    def sweep_path(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def experiment_path(self) -> Path:
        return self.path / "experiment.yaml"

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def held_out_path(self) -> Path:
        return self.path / "held_out.parquet"

    @property
    def trials_path(self) -> Path:
        return self.path / "trials"

    @property
    def tune_path(self) -> Path:
        return self.path / "tune"

    @property
    def best_path(self) -> Path:
        return self.path / "best.yaml"

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    @property
    def report_path(self) -> Path:
        return self.path / "sweep.html"

    def manifest(self) -> dict[str, Any]:
        return RunDir(self.path).manifest()

    def update_manifest(self, **values: Any) -> None:
        RunDir(self.path).update_manifest(**values)

    def result(self) -> dict[str, Any]:
        return RunDir(self.path).result()

    def write_result(self, result: dict[str, Any]) -> None:
        RunDir(self.path).write_result(result)

    def trial_path(self, name: str) -> Path:
        return self.trials_path / name

    def read_trial_file(self, name: str) -> dict[str, Any]:
        """trial.json, or an empty one if it cannot be read."""
        try:
            loaded = json.loads((self.trial_path(name) / "trial.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def update_trial_file(self, name: str, **values: Any) -> None:
        """Merges ``values`` into a trial's trial.json."""
        self.trial_path(name).mkdir(parents=True, exist_ok=True)
        held = {"name": name, "settings": {}, "error": None, "copied": [], **self.read_trial_file(name), **values}
        write_atomically(self.trial_path(name) / "trial.json", json.dumps(held, indent=2) + "\n")

    def trials(self) -> list[Trial]:
        """Every trial that was started, by name."""
        objective = self.manifest().get("objective", {})
        record, key = str(objective.get("record")), str(objective.get("field"))
        folders = sorted(p for p in self.trials_path.iterdir() if p.is_dir()) if self.trials_path.is_dir() else []
        return [self._trial(folder, record, key, objective.get("student")) for folder in folders]

    def _trial(self, folder: Path, record: str, key: str, student: str | None) -> Trial:
        told, run = self.read_trial_file(folder.name), RunDir(folder)
        measured: dict[int, tuple[float, float]] = {}
        for one in run.metrics(record):
            if isinstance(one.get(key), int | float) and one.get("student", student) == student:
                measured[int(one["step"])] = (float(one[key]), float(one["time_s"]))
        steps = sorted(measured)
        state = str(run.manifest().get("state", "waiting")) if run.manifest_path.exists() else "waiting"
        return Trial(
            name=folder.name,
            settings=dict(told.get("settings", {})),
            state="failed" if told.get("error") else state,
            error=told.get("error"),
            steps=steps,
            values=[measured[step][0] for step in steps],
            seconds=[measured[step][1] for step in steps],
            copied=list(told.get("copied", [])),
        )


def best_of(trials: Iterable[Trial], mode: str) -> Trial | None:
    """The trial with the best last measurement, among the finished ones if there are any; None without measurements."""
    measured = [trial for trial in trials if trial.objective is not None and trial.state != "failed"]
    candidates = [trial for trial in measured if trial.state == "finished"] or measured
    sign = -1 if mode == "min" else 1
    return max(candidates, key=lambda trial: sign * (trial.objective or 0.0), default=None)
