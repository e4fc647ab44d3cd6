"""``raydfkd run`` and ``raydfkd demo``: a distillation from its experiment to its report, with live progress."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raydfkd.cli.arguments import Experiment, Overrides, experiment_path

if TYPE_CHECKING:
    from raydfkd.cli.progress import Progress
    from raydfkd.pipeline.experiment.config import ExperimentConfig
    from raydfkd.pipeline.teacher.config import TeacherTrainingConfig

DEMO = Path(__file__).parents[1] / "demo.yaml"
DEMO_TEACHER = Path(__file__).parents[1] / "demo_teacher.yaml"


class Runner(StrEnum):
    local = "local"
    ray = "ray"


def run(
    experiment: Experiment,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; otherwise runtime.out, otherwise runs/NAME-seedSEED.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in the run directory.")] = False,
    runner: Annotated[Runner | None, typer.Option(help="Replaces runtime.runner.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; replaces runtime.address.")] = None,
) -> None:
    """Distil a student from a teacher, as EXP.yaml specifies."""
    from raydfkd.pipeline.experiment.config import load_experiment

    if resume and experiment.is_dir() and out is None:
        out = experiment
    path = experiment_path(experiment)
    settings = [*(overrides or []), *([] if runner is None else [f"runtime.runner={runner.value}"])]
    if resume:
        from raydfkd.api import resumed_overrides

        settings = resumed_overrides(path, settings, out)
    distill_with_progress(load_experiment(path, settings), path, settings, out=out, resume=resume, address=address)


def demo(
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of teacher and run.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Run directory; otherwise a new runs/demo-seedSEED.")] = None,
) -> None:
    """Run the whole pipeline in minutes, on handwritten digits.

    Trains a teacher first, starts a local Ray, distils a student without data and writes the report.
    """
    from raydfkd.ownership import owned
    from raydfkd.pipeline.experiment.config import load_experiment
    from raydfkd.pipeline.experiment.yaml_files import read_yaml, validate
    from raydfkd.pipeline.teacher.config import TeacherTrainingConfig
    from raydfkd.run_dir import RunDir

    folder = _new_folder(Path(f"runs/demo-seed{seed}")) if out is None else out
    teacher = folder.absolute() / "teacher.safetensors"
    settings = [f"runtime.seed={seed}", f"teacher.checkpoint={teacher}", *(overrides or [])]
    experiment = load_experiment(DEMO, settings)
    recipe = validate(TeacherTrainingConfig, {**read_yaml(DEMO_TEACHER), "seed": seed}, DEMO_TEACHER.name)
    with owned(folder, what=f"run directory {folder}"):
        RunDir.create(folder)
        distill_with_progress(experiment, DEMO, settings, out=folder, recipe=recipe)


def distill_with_progress(
    experiment: ExperimentConfig,
    path: Path,
    settings: list[str],
    *,
    out: Path | None,
    resume: bool = False,
    address: str | None = None,
    recipe: TeacherTrainingConfig | None = None,
) -> None:
    """Shows the progress of ``distill``; with a ``recipe`` the teacher is trained first."""
    from raydfkd.api import distill
    from raydfkd.cli.progress import Progress
    from raydfkd.tasks import build_task

    label = build_task(experiment.task).metric_label
    title = f"raydfkd {path.parent.name if path.stem == 'config' else path.stem}, seed {experiment.runtime.seed}"
    with Progress(experiment.schedule.total_steps, title=title, metric_label=label) as progress:
        if recipe is not None:
            assert experiment.teacher.checkpoint is not None, "the demo names its teacher's file"
            _train_teacher(recipe, experiment.teacher.checkpoint, progress)
        result = distill(path, overrides=settings, out=out, resume=resume, address=address, watcher=progress)
    typer.echo(f"run directory: {result.run_dir}")
    typer.echo(f"report: {result.report}")


def _train_teacher(recipe: TeacherTrainingConfig, path: Path, progress: Progress) -> None:
    from raydfkd.pipeline.teacher.epoch_lines import EpochLines
    from raydfkd.pipeline.teacher.training import train_teacher

    progress.stage("training the teacher", f"{recipe.model} on {recipe.dataset.kind}")
    trained = train_teacher(recipe, path, EpochLines(lambda line: progress.stage("training the teacher", line)))
    progress.stage("teacher trained", trained.summary)


def _new_folder(wanted: Path) -> Path:
    """``wanted``, or the first of ``wanted-2``, ``wanted-3``, ... that does not exist."""
    number, folder = 1, wanted
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder
