"""Sweeps: trials of one experiment through Ray Tune, as many at once as the cluster holds.

What waits for what: Tune's loop, in the driver, waits for its trials' measurements; a trial waits for Tune's reply after each;
the waits of a trial's own run are bounded by its ``runtime.wait_timeout_s``, and so is the wait of all trials for resources.
Tune's state is in the sweep directory, but a trial's own progress is in its run directory: Tune may know less after a kill, and
a trial that had finished just reports so again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from raydfkd.errors import ResourceError, RunFailedError, WaitTimeoutError
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run import stop_signals
from raydfkd.pipeline.sweep.config import ASHAConfig, PBTConfig, Sweep, probed_points
from raydfkd.pipeline.sweep.held_out_images import make_held_out
from raydfkd.pipeline.sweep.space import explore
from raydfkd.pipeline.sweep.sweep_result import SweepWatcher, begin, write_end
from raydfkd.pipeline.sweep.trial import OBJECTIVE, STEPS, TrialPlan
from raydfkd.replay.arrow import to_parquet
from raydfkd.run_dir import RunDir, write_atomically
from raydfkd.runtime.failures import original
from raydfkd.runtime.preflight import amounts, refusal_of
from raydfkd.runtime.ray_session import assigned_device, session
from raydfkd.runtime.sweeps.sweep_concurrency import Demands, most_at_once, trial_bundles, trial_demands
from raydfkd.runtime.sweeps.sweep_search import optuna_searcher
from raydfkd.runtime.sweeps.sweep_trainable import LIVE, SETTINGS, SweepCallback, TrialTrainable
from raydfkd.sweep_dir import SweepDir

POLL_S = 5.0
HOLD_OUT_TIMEOUT_S = 4 * 3600.0
"""Timeout for making the held-out images once the process is placed: the warm-up of a slow method takes long."""
FETCH_TIMEOUT_S = 60.0

QUIET_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "5",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


def run_sweep(sweep: Sweep, folder: SweepDir, *, resume: bool, watcher: SweepWatcher) -> dict[str, Any]:
    """Runs the sweep to its end, or resumes it; returns what result.json holds.

    Raises:
        ResourceError: the cluster cannot place a single trial.
        RaydfkdError: the held-out images cannot be made.
        KeyboardInterrupt: it was stopped; the results so far are written.
    """
    began = begin(folder)
    plan = TrialPlan(sweep, folder.path.absolute())
    runtime = sweep.base.runtime.model_copy(
        update={"address": sweep.config.runtime.address, "num_cpus": sweep.config.runtime.num_cpus}
    )
    watcher.stage("starting Ray")
    with _quiet(), session(sweep.base.model_copy(update={"runtime": runtime}), dashboard=runtime.runner == "ray"):
        concurrent = _concurrency(sweep)
        if resume and runtime.runner == "ray":
            _require_room(concurrent, int(folder.manifest().get("concurrent", 0)))
        folder.update_manifest(state="running", concurrent=concurrent)
        if plan.record == "held_out" and not folder.held_out_path.exists():
            watcher.stage("making the held-out images", "with a separate generator")
            _hold_out(sweep, folder)
        watcher.begin(sweep.num_trials, concurrent)
        began_at = str(folder.manifest().get("began_at", plan.path))
        LIVE[began_at] = watcher, folder
        try:
            with _interruptible() as interrupted:
                results = _tuner(plan, concurrent, resume).fit()
        finally:
            LIVE.pop(began_at, None)
            _mark_interrupted(folder)
    ended = results.num_terminated + results.num_errors
    stopped = ended < sweep.num_trials or interrupted.is_set()  # Tune counts those that it interrupts as ended.
    result = write_end(sweep, folder, "stopped" if stopped else "finished", began)
    if stopped:
        end = stop_signals.interruption()
        done = sum(trial.state in ("finished", "failed") for trial in folder.trials())
        end.add_note(f"{done} of {sweep.num_trials} trials were done; resume it with --resume and the same sweep directory")
        raise end
    watcher.finish(result)
    return result


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Tune's messages; the watcher reports what matters."""
    for name, value in QUIET_TUNE.items():
        os.environ.setdefault(name, value)
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.air", "optuna")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # A trial that copies another starts a new process, which costs seconds and keeps no state of the old one.
            warnings.filterwarnings("ignore", message="Consider boosting PBT performance", category=UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Lets Tune end in order at Ctrl-C or a signal, which sets the event; a second Ctrl-C interrupts it."""
    interrupted = threading.Event()

    def end(*received: Any) -> None:
        if interrupted.is_set() or signal.getsignal(signal.SIGUSR1) in (signal.SIG_DFL, None):  # Tune is not listening yet.
            raise stop_signals.interruption()
        interrupted.set()
        signal.raise_signal(signal.SIGUSR1)

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        with stop_signals.deferred(end):
            yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _concurrency(sweep: Sweep) -> int:
    """Trials at once: as many of the most demanding point as there is room for, at most the number requested."""
    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    asked = sweep.config.runtime.max_concurrent_trials
    limit = sweep.num_trials if asked is None else min(asked, sweep.num_trials)
    for wanted in _distinct(sweep):
        refusal = refusal_of(wanted, nodes)
        if refusal is not None:
            raise ResourceError(refusal)
        limit = most_at_once(wanted, nodes, limit)
    return limit


def _require_room(now: int, before: int) -> None:
    """Tune resumes with the number of concurrent trials that the sweep started with; without room they would deadlock."""
    if now < before:
        raise ResourceError(
            f"the sweep was started with {before} trials at once, the cluster now holds {now}: resume it where {before} fit, "
            "or start a new sweep"
        )


def _distinct(sweep: Sweep) -> list[Demands]:
    """The resources that the trials take, without duplicates."""
    found: list[Demands] = []
    for point in probed_points(sweep):
        wanted = trial_demands(sweep.experiment_of(point))
        if wanted not in found:
            found.append(wanted)
    return found


def _hold_out(sweep: Sweep, folder: SweepDir) -> None:
    """Makes the held-out images on a node where a trial would run: the driver's machine may have no GPU."""
    config, objective = sweep.base, sweep.config.objective
    resources = [need for _, need in trial_demands(config)]
    largest = max(resources, key=lambda one: (one.get("GPU", 0.0), one.get("CPU", 0.0)))
    need = dict(largest)
    actor: Any = ray.remote(_HeldOutMaker)
    again = {"max_restarts": 1, "max_task_retries": 1}
    maker = actor.options(num_cpus=need.pop("CPU", 1), num_gpus=need.pop("GPU", 0), resources=need, **again).remote()
    try:
        place = f"resources for the process that makes the held-out images: it needs {amounts(largest)}"
        _wait(maker.ready.remote(), config.runtime.wait_timeout_s, place)
        made = maker.make.remote(config, getattr(objective, "num_images", 0), sweep.config.search.seed)
        content: bytes = _wait(
            made, HOLD_OUT_TIMEOUT_S, "the held-out images: set objective.num_images or warmup_batches lower"
        )
    except ray.exceptions.RayTaskError as error:
        raise original(error) from None
    except ray.exceptions.RayError as error:
        died = f"the process that makes the held-out images died ({type(error).__name__})"
        raise RunFailedError(f"{died}: see Ray's logs") from error
    finally:
        ray.kill(maker)
    write_atomically(folder.held_out_path, content)


def _wait(answer: Any, timeout_s: float, what: str) -> Any:
    """An answer that may take minutes; waits in short intervals, so that Ctrl-C works meanwhile.

    Raises:
        WaitTimeoutError: it did not come in time.
    """
    deadline = time.monotonic() + timeout_s
    while not ray.wait([answer], timeout=min(POLL_S, timeout_s))[0]:
        if time.monotonic() > deadline:
            raise WaitTimeoutError(f"waited {timeout_s:.0f} s for {what}")
    return ray.get(answer, timeout=FETCH_TIMEOUT_S)


class _HeldOutMaker:
    """An actor that makes the held-out images where a trial would run."""

    def ready(self) -> None:
        """Answers once the process is placed."""

    def make(self, config: ExperimentConfig, num_images: int, seed: int) -> bytes:
        resources = config.student.resources
        torch.set_num_threads(resources.threads)
        return to_parquet(make_held_out(config, num_images, seed, builder.choose_device(config, assigned_device())))


def _tuner(plan: TrialPlan, concurrent: int, resume: bool) -> tune.Tuner:
    trainable = tune.with_resources(tune.with_parameters(TrialTrainable, plan=plan), partial(_group_of, plan.sweep))
    path = str(plan.folder.tune_path)
    if resume and tune.Tuner.can_restore(path):
        return tune.Tuner.restore(path, trainable, resume_unfinished=True, resume_errored=True)
    searcher = None
    space: dict[str, Any] = {}
    if plan.sweep.points is None:
        searcher = optuna_searcher(plan.sweep)
    else:
        space = {SETTINGS: tune.grid_search(plan.sweep.points)}
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=OBJECTIVE,
            mode=plan.sweep.mode,
            search_alg=searcher,
            scheduler=_scheduler(plan.sweep),
            num_samples=1 if searcher is None else plan.sweep.num_trials,
            max_concurrent_trials=concurrent,
            reuse_actors=False,
            trial_dirname_creator=_folder_of,
        ),
        run_config=tune.RunConfig(
            name=plan.folder.tune_path.name,
            storage_path=str(plan.path),
            failure_config=tune.FailureConfig(max_failures=0),
            # Tune's own copies serve population-based training alone: a trial's run directory has its checkpoints.
            checkpoint_config=tune.CheckpointConfig(num_to_keep=4, checkpoint_at_end=False),
            callbacks=[SweepCallback(plan.path, plan.sweep.base.runtime.wait_timeout_s)],
            verbose=0,
        ),
    )


def _group_of(sweep: Sweep, config: dict[str, Any]) -> tune.PlacementGroupFactory:
    return tune.PlacementGroupFactory(trial_bundles(sweep.experiment_of(config[SETTINGS])))


def _folder_of(trial: Any) -> str:
    return str(trial.trial_id)


def _scheduler(sweep: Sweep) -> Any:
    scheduler = sweep.config.scheduler
    if isinstance(scheduler, ASHAConfig):
        return tune.schedulers.ASHAScheduler(
            time_attr=STEPS,
            max_t=sweep.base.schedule.total_steps,
            grace_period=scheduler.grace_period_steps,
            reduction_factor=scheduler.reduction_factor,
        )
    if isinstance(scheduler, PBTConfig):
        return tune.schedulers.PopulationBasedTraining(
            time_attr=STEPS,
            perturbation_interval=scheduler.perturbation_interval_steps,
            quantile_fraction=scheduler.quantile_fraction,
            custom_explore_fn=partial(_explored, sweep, random.Random(sweep.config.search.seed)),
            log_config=False,
        )
    return None


def _explored(sweep: Sweep, rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    pbt = sweep.config.scheduler
    assert isinstance(pbt, PBTConfig)
    settings = explore(config[SETTINGS], sweep.config.space, pbt.mutable, pbt.resample_probability, rng)
    return {**config, SETTINGS: settings}


def _mark_interrupted(folder: SweepDir) -> None:
    """Marks as stopped a trial that was killed together with the sweep and could not report it."""
    for trial in folder.trials():
        if trial.state == "running":
            run = RunDir(Path(folder.trial_path(trial.name)))
            run.update_manifest(state="stopped", error="stopped with the sweep", actors=None)
