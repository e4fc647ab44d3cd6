"""Runs a bench's methods one after another, each to the end of its budget, and writes what came of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raydfkd.api import distill
from raydfkd.bench.bench_dir import FINAL, BenchDir
from raydfkd.bench.bench_outcome import outcome_of
from raydfkd.bench.budget_watch import BudgetWatch, RunEnded
from raydfkd.bench.plan import RULE, Bench, BenchBudget, open_bench, plan_for
from raydfkd.errors import ConfigError, RaydfkdError, RunInUseError, RunStoppedError, RunTakenOverError, described
from raydfkd.ownership import owned
from raydfkd.pipeline.experiment.config import ExperimentConfig, load_experiment
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.pipeline.run.recorder import Watcher
from raydfkd.report.bench.bench_page import write_bench_page
from raydfkd.report.html import write_report
from raydfkd.run_dir import RunDir
from raydfkd.synthesis.methods import METHODS
from raydfkd.tasks import build_task

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]
Display = Callable[[str, ExperimentConfig], AbstractContextManager[Any]]
"""From a method's name and its experiment to what shows its run: a context manager that gives a ``Watcher``."""

ALL = "all"


def chosen_methods(text: str) -> list[str]:
    """The methods that a comma-separated list names, in its order; ``all``: every one.

    Raises:
        UnknownNameError: there is no such method.
        ConfigError: the list is empty or names one twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("--methods names no method: give some, separated by commas, or all")
    if names == [ALL]:
        return list(METHODS)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"--methods names {twice[0]} twice: name each once")
    for name in names:
        METHODS.get(name)
    return names


def run_bench(
    base: ExperimentConfig,
    names: Sequence[str],
    budget: BenchBudget,
    out: Path,
    *,
    tell: Tell = lambda line: None,
    display: Display = lambda name, config: nullcontext(Watcher()),
    page: bool = True,
) -> dict[str, Any]:
    """Runs the methods that have not ended yet, and returns the outcome of all of the bench.

    A method that this teacher does not allow is skipped, one that fails or collapses is marked, and the next one follows.

    Args:
        base: the experiment whose teacher, student and data they share.
        out: the bench directory; the same again continues the bench.
        tell: takes a line for people.
        page: write result.json and bench.html; without, several processes can run methods of one bench.

    Raises:
        RaydfkdError: teacher, student, data or folder cannot be used, or the process was told to end.
        KeyboardInterrupt: likewise; what there is so far has been written.
    """
    folder = BenchDir(out)
    bench = open_bench(base)
    what, advice = f"bench directory {out}", "choose another --out, or end that process first (Ctrl-C or kill)"
    with owned(out, what=what, advice=advice) if page else nullcontext():
        folder.begin(_shared(bench, budget), dump_yaml(base))
        if page:
            folder.update_manifest(state="running")
        state = "stopped"
        try:
            for name in names:
                _run_method(bench, name, budget, folder, tell, display)
            state = "finished"
        finally:
            if page:
                folder.update_manifest(state=state)
                write_outcome(folder)
    return outcome_of(folder)


def write_outcome(folder: BenchDir) -> tuple[Path, Path]:
    """Writes result.json and bench.html, and returns their paths."""
    return folder.write_result(outcome_of(folder)), write_bench_page(folder.path)


def _shared(bench: Bench, budget: BenchBudget) -> dict[str, Any]:
    base = bench.base
    return {
        "budget": budget.recorded(),
        "teacher": {"model": base.teacher.model, "sha256": bench.teacher.state_sha256()},
        "student": base.student.model,
        "seed": base.runtime.seed,
        "teacher_metric": bench.metric,
        "metric_label": build_task(base.task).metric_label if base.evaluation is not None else "agreement",
        "measured_on": _measured_on(base),
        "rule": RULE,
    }


def _measured_on(base: ExperimentConfig) -> str:
    if base.evaluation is None:
        return "held-out images, by the teacher's answers"
    dataset = base.evaluation.dataset
    return f"{dataset.location}, split {dataset.split}, for reporting only"


def _run_method(bench: Bench, name: str, budget: BenchBudget, folder: BenchDir, tell: Tell, display: Display) -> None:
    """Runs a method unless it has ended; a run that was stopped goes on."""
    run = folder.run(name)
    with owned(run.path, what=f"run directory {run.path}", advice="wait for that process, or end it first"):
        if folder.entry(name).get("end") in FINAL:
            tell(f"{name}: ended before, {run.path}")
            return
        resume = run.manifest_path.is_file()
        if resume:
            config = load_experiment(run.config_path)
        else:
            tell(f"{name}: planning it")
            try:
                plan = plan_for(bench, name, budget)
            except RaydfkdError as error:
                folder.write_entry(name, end="skipped", reason=str(error))
                tell(f"{name}: skipped: {error}")
                return
            config = plan.config
            times = {key: value for key, value in asdict(plan).items() if key != "config"}
            folder.write_entry(name, planned=times)
        end, reason = _ended(name, config, budget, run, resume, display)
        folder.write_entry(name, end=end, reason=reason)
        tell(f"{name}: {end}" + ("" if reason is None else f": {reason}"))


def _ended(
    name: str, config: ExperimentConfig, budget: BenchBudget, run: RunDir, resume: bool, display: Display
) -> tuple[str, str | None]:
    """Runs it, and says how it ended and why."""
    if resume and run.manifest().get("state") == "finished":
        return "finished", None
    try:
        with display(name, config) as shown:
            distill(config, out=run.path, resume=resume, watcher=BudgetWatch(config, budget.seconds, shown, run))
    except RunEnded as ended:
        write_report(run.path)
        return ended.end, str(ended)
    except (RunInUseError, RunTakenOverError):
        raise
    except RunStoppedError as error:
        raise RunStoppedError(f"the bench was stopped during {name}; the same command continues it") from error
    except RaydfkdError as error:
        return "failed", str(error)
    except Exception as error:  # any: the other methods are run all the same
        logger.exception("%s failed", name)
        return "failed", described(error)
    return "finished", None
