"""What Ray Tune runs and calls: a trial's process, and the callback that notifies the driver's watcher. Shells only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray import tune

from raydfkd.errors import WaitTimeoutError
from raydfkd.pipeline.sweep.sweep_result import SweepWatcher
from raydfkd.pipeline.sweep.trial import DONE, OBJECTIVE, STEPS, TrialPlan, TrialRun
from raydfkd.run_dir import RunDir
from raydfkd.runtime.ray_runner import run_ray
from raydfkd.sweep_dir import SweepDir

SETTINGS = "settings"
"""Key under which Tune's configuration of a trial holds its point."""
STOP_TIMEOUT_S = 60.0

LIVE: dict[str, tuple[SweepWatcher, SweepDir]] = {}
"""This process's sweeps, by the path at which each began: Tune pickles its callbacks, but a terminal cannot be pickled, and a
sweep directory may be moved before the sweep is resumed."""


def name_of(trial_id: str) -> str:
    """``00003`` of a grid or of draws; a searcher's trials have names of eight letters instead of numbers."""
    return trial_id.rpartition("_")[2]


class TrialTrainable(tune.Trainable):
    """A trial's process."""

    def setup(self, config: dict[str, Any], plan: TrialPlan) -> None:
        self._trial_run = TrialRun(plan, name_of(self.trial_id), dict(config[SETTINGS]), run_ray)

    def step(self) -> dict[str, Any]:
        return self._trial_run.next()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._trial_run.save(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self._trial_run.load(Path(checkpoint))

    def cleanup(self) -> None:
        self._trial_run.stop(STOP_TIMEOUT_S)


class SweepCallback(tune.Callback):
    """Notifies the sweep's watcher, records the failure of a trial that died, and ends a sweep that makes no progress.

    Args:
        path: the sweep directory when the sweep began, a key of ``LIVE``.
        patience_s: how long the sweep may go without a running trial, because none can be placed, before it ends.
    """

    def __init__(self, path: Path, patience_s: float) -> None:
        self._path, self._patience_s = path, patience_s
        self._idle_since: float | None = None
        self._told: set[str] = set()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Reports the trials that had ended before the sweep was resumed."""
        for trial in trials:
            if str(trial.status) == "TERMINATED" and trial.trial_id not in self._told and trial.last_result:
                result, settings = trial.last_result, dict(trial.config[SETTINGS])
                self._tell(trial, settings=settings, step=int(result[STEPS]), objective=float(result[OBJECTIVE]))
                self.on_trial_complete(iteration, trials, trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Checks, at each step of Tune's loop, whether trials are waiting and none runs.

        Raises:
            WaitTimeoutError: for longer than ``patience_s``.
        """
        states = {str(trial.status) for trial in trials}
        if "RUNNING" in states or "PENDING" not in states:
            self._idle_since = None
            return
        now = time.monotonic()
        if self._idle_since is None or self._idle_since > now:  # The latter if the callback was saved and restored.
            self._idle_since = now
        if now - self._idle_since > self._patience_s:
            raise WaitTimeoutError(
                f"waited {self._patience_s:.0f} s to place a trial: the cluster has lost nodes or other jobs hold them; "
                "continue with --resume once there is room"
            )

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial, state="running", settings=dict(trial.config[SETTINGS]))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        self._tell(trial, step=int(result[STEPS]), objective=float(result[OBJECTIVE]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._told.add(trial.trial_id)
        self._tell(trial, state="finished" if trial.last_result.get(DONE) else "stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        (_, folder), name = LIVE[str(self._path)], name_of(trial.trial_id)
        error = folder.read_trial_file(name).get("error")
        if error is None:
            error = "its process died; see its run directory and Ray's logs"
            folder.update_trial_file(name, error=error, settings=dict(trial.config[SETTINGS]))
            run = RunDir(folder.trial_path(name))
            if run.manifest_path.exists():
                run.update_manifest(state="failed", error=error)
        self._tell(trial, state="failed", error=error)

    def _tell(self, trial: Any, **values: Any) -> None:
        watcher, _ = LIVE[str(self._path)]
        watcher.update(name_of(trial.trial_id), **values)
