"""The Python entry points, ``raydfkd.distill``, ``propose``, ``sweep``, ``build_dataset``; the command line calls them too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydfkd.errors import ConfigError, RaydfkdError, RunDirError
from raydfkd.ownership import owned
from raydfkd.pipeline.experiment.changes import latest
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment, load_experiment
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.run_dir import RunDir, write_atomically

if TYPE_CHECKING:
    from raydfkd.pipeline.condensation.condense import Condensed, Estimate
    from raydfkd.pipeline.proposal.findings import Told
    from raydfkd.pipeline.proposal.propose import Proposal
    from raydfkd.pipeline.sweep.config import Sweep
    from raydfkd.pipeline.sweep.sweep_result import SweepWatcher
    from raydfkd.sweep_dir import SweepDir


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        result: what result.json holds.
        run_dir: the run directory.
        report: its report.html.
    """

    result: dict[str, Any]
    run_dir: Path
    report: Path

    def weights(self, student: str | None = None, *, ema: bool = False) -> Path:
        """The weights file of a student.

        Args:
            student: its name; None: the first one's.
            ema: the moving average in place of the last weights.

        Raises:
            RunDirError: the run has no such student.
        """
        return RunDir(self.run_dir).weights_of(student, ema)


def distill(
    config: ExperimentConfig | dict[str, Any] | str | Path,
    *,
    overrides: Iterable[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    address: str | None = None,
    watcher: Any = None,
) -> Result:
    """Distils a student (or several) from a teacher, as the experiment says, to the end.

    Args:
        config: an experiment, a tree of plain values, or the path of a YAML file.
        overrides: ``a.b=c`` settings on top of a tree or a file.
        out: the run directory; otherwise ``runtime.out``, otherwise ``runs/<name>-seed<seed>``.
        resume: continue the run in that directory from its last checkpoint. Overrides of its earlier starts hold on; other
            settings may be changed, and are recorded, unless they determine what the checkpoint holds (seed, task, teacher,
            networks, ...). A finished run goes on if ``schedule.rounds`` is higher than it was.
        address: Ray cluster to join, in place of ``runtime.address``.
        watcher: notified of stages and records during the run (see ``pipeline.recorder.Watcher``).

    Raises:
        RaydfkdError: something the caller can fix, in one sentence.
    """
    from raydfkd.pipeline.run.execute import execute

    file = Path(config) if isinstance(config, str | Path) else None
    overrides = list(overrides)
    if resume and not isinstance(config, ExperimentConfig):
        overrides = resumed_overrides(config, overrides, out)
    name, config = "experiment" if file is None else file.stem, _experiment(config, overrides)
    updates: dict[str, Any] = {} if address is None else {"address": address}
    path = _run_path(config, name, out)
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={**updates, "out": path.absolute()})})
    from raydfkd.report.html import write_report

    if resume:
        RunDir.open(path)
    with owned(path, what=f"run directory {path}", advice=_stop_advice(path)):
        run = _open(path, config, resume, file)
        result = execute(config, run, resume=resume, watcher=watcher, run_ray=_ray_runner, overrides=overrides)
        with _noted(f"the run is finished; write its report with: raydfkd report {run.path}"):
            return Result(result, run.path, write_report(run.path))


def resumed_overrides(
    config: dict[str, Any] | str | Path, overrides: Iterable[str], out: str | Path | None = None
) -> list[str]:
    """The overrides of a run's earlier starts, which its file lacks, and then ``overrides``; see ``distill``."""
    overrides = list(overrides)
    name = Path(config).stem if isinstance(config, str | Path) else "experiment"
    run = RunDir.open(_run_path(_experiment(config, overrides), name, out))
    if isinstance(config, str | Path) and Path(config).resolve() == run.config_path.resolve():
        return overrides
    return latest([*run.manifest().get("overrides", []), *overrides])


def _experiment(config: ExperimentConfig | dict[str, Any] | str | Path, overrides: list[str]) -> ExperimentConfig:
    if isinstance(config, str | Path):
        return load_experiment(config, overrides)
    return build_experiment(config, overrides) if isinstance(config, dict) else config


def _run_path(config: ExperimentConfig, name: str, out: str | Path | None) -> Path:
    return Path(out or config.runtime.out or f"runs/{name}-seed{config.runtime.seed}")


def propose(
    teacher: str | Path | None,
    model: str | None = None,
    *,
    told: Told | None = None,
    student: str | None = None,
    max_params: int | None = None,
    method: str | None = None,
    minutes: float = 30.0,
    evaluation: str | Path | None = None,
) -> Proposal:
    """An experiment for a teacher, as ``raydfkd init`` writes it: ``distill(propose("teacher.safetensors").config)``.

    Args:
        teacher: a file of weights, a named teacher, a ``.pt2`` file, a Hugging Face folder or ``hf:ORG/NAME``.
        model: the network of a file of weights that does not say it.
        told: what the teacher's files do not say.
        student: its network; None: one that suits.
        max_params: most parameters of the student.
        method: that makes the images; None: the best that suits the teacher.
        minutes: time for the run.
        evaluation: labelled images to report on: a folder, Parquet files, or ``NAME/SPLIT``.

    Raises:
        RaydfkdError: something is missing or cannot be, in one sentence.
    """
    from raydfkd.pipeline.dataset.inspection import dataset_of
    from raydfkd.pipeline.proposal.findings import Told, identify
    from raydfkd.pipeline.proposal.machine import this_machine
    from raydfkd.pipeline.proposal.propose import Wishes
    from raydfkd.pipeline.proposal.propose import propose as proposed

    def refuse(missing: list[str]) -> dict[str, Any]:
        if missing == ["model"]:
            raise ConfigError(f"{teacher} does not say which network it is: give model")
        raise ConfigError(f"{', '.join(missing)} of the teacher {teacher or model} are not known: give them in told")

    data = None if evaluation is None else dataset_of(Path(evaluation))
    findings = identify(None if teacher is None else str(teacher), model, told or Told(), data, refuse)
    return proposed(findings, Wishes(student, max_params, minutes, data, method), this_machine())


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep.

    Attributes:
        result: what result.json holds.
        sweep_dir: the sweep directory.
        report: its sweep.html.
        best: the best trial's experiment; None if no trial was measured.
    """

    result: dict[str, Any]
    sweep_dir: Path
    report: Path
    best: Path | None


def sweep(
    path: str | Path,
    *,
    overrides: Iterable[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    address: str | None = None,
    watcher: Any = None,
) -> SweepResult:
    """Runs a sweep's trials, to the end.

    Args:
        path: a sweep's YAML file, or a sweep directory for the one it holds.
        overrides: ``a.b=c`` settings of the sweep; ``overrides.a.b=c`` of its experiment.
        out: the sweep directory; otherwise ``runtime.out``, otherwise ``runs/<name>``.
        resume: continue the sweep in that directory (or in the one given as ``path``); finished trials are kept.
        address: Ray cluster to join, in place of ``runtime.address``.
        watcher: notified of stages and trials during the sweep (see ``pipeline.sweep_outcome.SweepWatcher``).

    Raises:
        RaydfkdError: something the caller can fix, in one sentence.
        KeyboardInterrupt: it was stopped; the results so far are written, and ``resume`` continues it.
    """
    from raydfkd.pipeline.sweep.config import load_sweep
    from raydfkd.pipeline.sweep.sweep_result import SweepWatcher, write_beginning
    from raydfkd.sweep_dir import SweepDir

    given = Path(path)
    settings = [*overrides, *([] if address is None else [f"runtime.address={address}"])]
    if resume:
        folder = SweepDir.open(given if given.is_dir() and out is None else out or _sweep_folder(given))
        if list(overrides):
            raise ConfigError("a resumed sweep keeps its settings: leave the overrides out, or start a new sweep")
        loaded = load_sweep(folder.sweep_path, settings)
    else:
        loaded = load_sweep(SweepDir.open(given).sweep_path if given.is_dir() else given, settings)
        folder = SweepDir(out or loaded.config.runtime.out or f"runs/{given.stem}")
    advice = "choose another --out, or end that process (Ctrl-C or kill) and continue the sweep with --resume"
    with owned(folder.path, what=f"sweep directory {folder.path}", advice=advice):
        if not resume:
            SweepDir.create(folder.path)
            write_beginning(loaded, folder)
        elif folder.manifest().get("state") == "finished":
            raise RunDirError(f"sweep directory {folder.path} holds a finished sweep: there is nothing to resume")
        return _sweep(loaded, folder, resume, SweepWatcher() if watcher is None else watcher)


def _sweep(loaded: Sweep, folder: SweepDir, resume: bool, watcher: SweepWatcher) -> SweepResult:
    from raydfkd.report.sweep.sweep_page import write_sweep_report
    from raydfkd.runtime.sweeps.tuner import run_sweep

    try:
        result = run_sweep(loaded, folder, resume=resume, watcher=watcher)
    except RaydfkdError as error:
        if not resume and error.exit_code == 2 and not folder.trials():
            folder.remove_unstarted()
        raise
    finally:
        if folder.result_path.exists():
            with _noted(f"write the sweep's report with: raydfkd report {folder.path}"):
                write_sweep_report(folder.path)
    return SweepResult(result, folder.path, folder.report_path, folder.best_path if folder.best_path.exists() else None)


@dataclass(frozen=True)
class BuiltDataset:
    """A finished data set to distil on.

    Attributes:
        path: its folder, for ``collected.dataset: {kind: parquet, path: ...}``.
        manifest: what its build.json holds.
        starvation: a sentence on the classes that it lacks.
    """

    path: Path
    manifest: dict[str, Any]
    starvation: str


def build_dataset(
    path: str | Path,
    *,
    overrides: Iterable[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    tell: Callable[[str, int, int], None] | None = None,
) -> BuiltDataset:
    """Builds a data set to distil on, to the end.

    Args:
        path: a build's YAML file, or the folder of a data set for the one it holds.
        overrides: ``a.b=c`` settings that replace the file's.
        out: its folder; otherwise the one given as ``path``, otherwise ``datasets/<name>``.
        resume: continue an unfinished build in that folder; finished parts are kept.
        tell: called with the current pass, the images done and their total.

    Raises:
        RaydfkdError: something the caller can fix, in one sentence.
    """
    from raydfkd.evaluation.transfer_set import describe_starvation
    from raydfkd.pipeline.dataset.build import DatasetBuild, execute_here
    from raydfkd.pipeline.dataset.config import load_dataset_build
    from raydfkd.pipeline.dataset.folder import BuildFolder
    from raydfkd.pipeline.experiment.builder import class_names

    given = Path(path)
    config = load_dataset_build(given / "build.yaml" if given.is_dir() else given, overrides)
    place = Path(out) if out is not None else given if given.is_dir() else Path("datasets") / given.stem
    told = (lambda name, done, total: None) if tell is None else tell
    advice = "choose another --out, or end that process (Ctrl-C or kill) and continue the build with --resume"
    with owned(place, what=f"data set folder {place}", advice=advice):
        if resume:
            folder = BuildFolder.reopen(place, config)
            build = DatasetBuild(config)
        else:
            BuildFolder.require_free(place)  # before the teacher is loaded
            build = DatasetBuild(config)
            folder = BuildFolder.begin(place, config)
        if config.runtime.runner == "local":
            manifest = build.run(folder, execute_here, told)
        else:
            from raydfkd.runtime.dataset_build_on_ray import build_on_ray

            manifest = build_on_ray(build, folder, told)
    names = class_names(config.teacher.weights, config.teacher.model)
    words = describe_starvation(manifest["class_counts"], manifest["distinct_class_counts"], names)
    return BuiltDataset(place, manifest, words)


def condense(
    data: str | Path,
    *,
    overrides: Iterable[str] = (),
    name: str | None = None,
    out: str | Path | None = None,
    tell: Callable[[str, int, int, dict[str, float]], None] | None = None,
    announce: Callable[[Estimate], None] | None = None,
) -> Condensed:
    """Makes a condensed set: a few labelled images of each class that stand for a data set. Goes on with an unfinished one.

    Args:
        data: a YAML file of settings, or labelled images: ``NAME/SPLIT``, Parquet files, a folder with one for each class.
        overrides: ``a.b=c`` settings, such as ``images_per_class=10`` and ``method.kind=dsa``.
        name: of the set, below the data root; otherwise such as cifar10_dm_10.
        out: the file to write, ``.parquet``, in place of a named one.
        tell: called with what is counted, how much is done, the total, and figures.
        announce: called before it starts with the time and the memory it will take.

    Raises:
        RaydfkdError: something the caller can fix, in one sentence.
    """
    from raydfkd.data.kinds.condensed import condensed_place
    from raydfkd.pipeline.condensation.condense import LocalPool, OpenPool
    from raydfkd.pipeline.condensation.condense import condense as made
    from raydfkd.pipeline.condensation.config import load_condense

    config = load_condense(str(data), overrides)
    open_pool: OpenPool = LocalPool
    if config.runtime.runner == "ray":
        from raydfkd.runtime.condensation_on_ray import open_ray_pool

        open_pool = open_ray_pool
    place = condensed_place(config.name if name is None and out is None else name, None if out is None else Path(out))
    silent: Any = lambda *_: None  # noqa: E731
    return made(config, place, open_pool, tell or silent, announce or silent)


def _sweep_folder(file: Path) -> Path:
    """Where the sweep of ``file`` is unless an ``out`` says otherwise."""
    from raydfkd.pipeline.sweep.config import load_sweep

    return load_sweep(file).config.runtime.out or Path(f"runs/{file.stem}")


def _stop_advice(path: Path) -> str:
    return (
        f"choose another --out, or stop that run (raydfkd stop {path}, Ctrl-C or kill) and continue it here with "
        f"raydfkd run {path} --resume"
    )


def _open(path: Path, config: ExperimentConfig, resume: bool, file: Path | None) -> RunDir:
    if not resume:
        overwritten = file is not None and file.resolve() == path.resolve() / "config.yaml"
        if overwritten and not RunDir(path).manifest_path.exists():
            raise RunDirError(f"run directory {path} holds the experiment itself as config.yaml: choose another --out")
        run = RunDir.create(path)
        write_atomically(run.config_path, dump_yaml(config))
        return run
    run = RunDir.open(path)
    if run.manifest().get("state") == "finished":
        newest = run.latest_checkpoint()
        if newest is None or config.schedule.total_steps <= int(newest.name.removeprefix("step-")):
            raise RunDirError(
                f"run directory {path} holds a finished run: there is nothing to resume; choose another --out, or prolong it "
                f"with schedule.rounds above {config.schedule.rounds}"
            )
    return run


@contextmanager
def _noted(note: str) -> Iterator[None]:
    """Adds a note on how to go on to an interruption of the block."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(note)
        raise


def _ray_runner(*args: Any) -> None:
    from raydfkd.runtime.ray_runner import run_ray

    run_ray(*args)
