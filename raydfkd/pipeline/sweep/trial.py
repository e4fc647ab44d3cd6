"""One trial of a sweep: a run that pauses at each measurement until it is told to continue or to end.

The run executes in a thread; ``next`` lets it run until the next measurement. So a scheduler decides at the same student step
whatever the machine's speed, and a stopped trial ends like any stopped run. If trials copy each other (population-based
training), a measurement is returned only once its checkpoint is written.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydfkd.errors import CheckpointError, RaydfkdError
from raydfkd.ownership import owned
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.pipeline.run.execute import Runner, execute
from raydfkd.pipeline.run.recorder import Watcher
from raydfkd.pipeline.sweep.config import EvaluationObjectiveConfig, PBTConfig, Sweep
from raydfkd.run_dir import RunDir, write_atomically
from raydfkd.sweep_dir import SweepDir

STEPS, OBJECTIVE, DONE = "student_steps", "objective", "done"
"""Keys of a measurement: the student's steps, the figure, and whether the trial has finished."""

TAKEOVER_TIMEOUT_S = 120.0


class TrialStopped(KeyboardInterrupt):
    """The sweep ends the trial; the run treats it as an ordinary stop."""


@dataclass(frozen=True)
class TrialPlan:
    """Data shared by all trials of a sweep.

    Attributes:
        sweep: the checked sweep.
        path: its directory, on storage that every node sees.
    """

    sweep: Sweep
    path: Path

    @property
    def folder(self) -> SweepDir:
        return SweepDir(self.path)

    @property
    def record(self) -> str:
        """Kind of the metrics record that holds the objective."""
        return "evaluation" if self.sweep.config.objective.kind == "evaluation" else "held_out"

    @property
    def field(self) -> str:
        """Its key in that record."""
        objective = self.sweep.config.objective
        return f"{'metric' if objective.kind == 'evaluation' else objective.kind}_{objective.student}"

    def measures(self, record: dict[str, Any]) -> bool:
        """Whether a metrics record holds the objective."""
        return bool(record["kind"] == self.record and record["student"] == self.sweep.student_name)

    def experiment_of(self, settings: dict[str, Any], run: Path) -> ExperimentConfig:
        """The experiment a trial runs: the point's settings, measured as the sweep specifies, in the trial's own directory."""
        config = self.sweep.experiment_of(settings)
        updates: dict[str, Any] = {}
        if isinstance(self.sweep.config.objective, EvaluationObjectiveConfig):
            assert config.evaluation is not None
            updates["evaluation"] = config.evaluation.model_copy(update={"period_steps": self.sweep.period_steps})
        else:
            held_out = {"path": str(self.folder.held_out_path), "period_steps": self.sweep.period_steps}
            updates["held_out"] = type(config).model_validate({**config.model_dump(), "held_out": held_out}).held_out
            updates["evaluation"] = None  # labelled data is read only if the sweep's objective requires it
            if config.collected is not None:
                updates["collected"] = config.collected.model_copy(update={"exclude": self.folder.held_out_path})
        runtime: dict[str, Any] = {"out": run, "address": None}
        if config.runtime.runner == "local" and config.runtime.device == "auto" and not any(r.gpus for r in config.resources):
            runtime["device"] = "cpu"  # a trial may see GPUs it does not own
        if isinstance(self.sweep.config.scheduler, PBTConfig):
            rounds = self.sweep.period_steps // config.schedule.student_steps_per_round
            runtime["checkpoint_period_rounds"] = rounds
        updates["runtime"] = config.runtime.model_copy(update=runtime)
        return config.model_copy(update=updates)


class TrialRun:
    """A trial that runs from one measurement to the next.

    Args:
        plan: the sweep's.
        name: the trial's, and its folder's.
        settings: dotted key to value.
        run_ray: the Ray runner, passed in because this package does not import Ray.
    """

    def __init__(self, plan: TrialPlan, name: str, settings: dict[str, Any], run_ray: Runner) -> None:
        self.plan = plan
        self.name = name
        self.settings = settings
        self.run = RunDir(plan.folder.trial_path(name))
        self._run_ray = run_ray
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._handed: dict[str, Any] | None = None
        self._go, self._news = threading.Semaphore(0), threading.Semaphore(0)
        self._stopping = threading.Event()

    def next(self) -> dict[str, Any]:
        """Runs until the next measurement and returns it; the last one, of the finished trial, has ``done`` set.

        Raises:
            Exception: whatever the run raised; also recorded in trial.json.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"trial {self.name}", daemon=True)
            self._thread.start()
        else:
            self._go.release()
        self._news.acquire()
        if self._error is not None:
            raise self._error
        assert self._handed is not None
        handed, self._handed = self._handed, None
        return handed

    def stop(self, timeout_s: float) -> bool:
        """Ends the run at its next record; False if it has not ended within ``timeout_s``; the process must then be ended."""
        self._stopping.set()
        self._go.release()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def save(self, folder: Path) -> None:
        """Copies the newest checkpoint into ``folder``, for this or another trial to continue from."""
        newest = self.run.latest_checkpoint()
        if newest is None:
            raise CheckpointError(f"trial {self.name} has no checkpoint to copy: it has not reached its first measurement")
        shutil.copytree(newest, folder / newest.name, dirs_exist_ok=True)
        write_atomically(folder / "origin.json", json.dumps({"trial": self.name, "checkpoint": newest.name}) + "\n")

    def load(self, folder: Path) -> None:
        """Continues from what this or another trial saved in ``folder``; only before the first ``next``."""
        origin = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
        checkpoint = str(origin["checkpoint"])
        newest = self.run.latest_checkpoint() if self.run.checkpoints.is_dir() else None
        if origin["trial"] == self.name and newest is not None and newest.name == checkpoint:
            return
        target = self.run.checkpoints / checkpoint
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder / checkpoint, target)
        self.run.commit_checkpoint(target)
        if origin["trial"] != self.name:
            step = int(checkpoint.removeprefix("step-"))
            copied = [*self.plan.folder.read_trial_file(self.name).get("copied", [])]
            copied.append({"step": step, "from": origin["trial"], "settings": self.settings})
            self.plan.folder.update_trial_file(self.name, copied=copied)

    def _work(self) -> None:
        try:
            self._run()
        except TrialStopped:
            return
        except BaseException as error:  # Passed to the caller waiting in ``next``, which raises it.
            self.plan.folder.update_trial_file(self.name, error=_sentence(error))
            self._error = error
        self._news.release()

    def _run(self) -> None:
        """Waits first until no other process runs this trial: a process that was just stopped may not have ended yet."""
        with owned(
            self.run.path,
            what=f"trial {self.run.path}",
            advice="end that process, then resume the sweep",
            wait_s=TAKEOVER_TIMEOUT_S,
            waiting=self._give_up_if_stopped,
        ):
            self._run_alone()

    def _give_up_if_stopped(self) -> None:
        if self._stopping.is_set():
            raise TrialStopped("stopped with the sweep")

    def _run_alone(self) -> None:
        self.plan.folder.update_trial_file(self.name, settings=self.settings, error=None)
        if self._state() != "finished":
            resume = self.run.manifest_path.exists() or self.run.checkpoints.is_dir()
            run = self.run if resume else RunDir.create(self.run.path)
            for folder in (run.samples, run.analysis, run.checkpoints):
                folder.mkdir(exist_ok=True)
            config = self.plan.experiment_of(self.settings, run.path)
            write_atomically(run.config_path, dump_yaml(config))
            watcher = _Measurements(self.plan, run, config.schedule.total_steps, self._hand_over, self._stopping.is_set)
            execute(config, run, resume=resume, watcher=watcher, run_ray=self._run_ray)
        measured = [record for record in self.run.metrics() if self.plan.measures(record)]
        self._handed = {**_measurement(measured[-1], self.plan.field), DONE: True}

    def _state(self) -> str:
        return str(self.run.manifest().get("state")) if self.run.manifest_path.exists() else ""

    def _hand_over(self, measurement: dict[str, Any]) -> None:
        self._handed = measurement
        self._news.release()
        self._go.acquire()
        if self._stopping.is_set():
            raise TrialStopped(f"stopped by the sweep at student step {measurement[STEPS]}")


class _Measurements(Watcher):
    """Extracts the objective from the records as they are written.

    The last one is reported at the end of the run, when its outcome has been written too.
    """

    def __init__(
        self,
        plan: TrialPlan,
        run: RunDir,
        total_steps: int,
        hand_over: Callable[[dict[str, Any]], None],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._run = run
        self._total_steps = total_steps
        self._hand_over = hand_over
        self._is_stopped = is_stopped
        self._waiting: dict[str, Any] | None = None
        self._needs_checkpoint = isinstance(plan.sweep.config.scheduler, PBTConfig)

    def update(self, record: dict[str, Any]) -> None:
        if self._is_stopped():
            raise TrialStopped("stopped with the sweep")
        if self._plan.measures(record) and record["step"] < self._total_steps:
            self._waiting = _measurement(record, self._plan.field)
        if self._waiting is not None and self._is_saved(self._waiting[STEPS]):
            waiting, self._waiting = self._waiting, None
            self._hand_over(waiting)

    def _is_saved(self, step: int) -> bool:
        if not self._needs_checkpoint:
            return True
        newest = self._run.latest_checkpoint()
        return newest is not None and int(newest.name.removeprefix("step-")) >= step


def _measurement(record: dict[str, Any], field: str) -> dict[str, Any]:
    return {STEPS: int(record["step"]), OBJECTIVE: float(record[field]), DONE: False}


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, RaydfkdError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
