"""``raydfkd train-teacher``, ``evaluate`` and ``export``: make weights, measure them, write them in other formats."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raydfkd.cli.arguments import Overrides
from raydfkd.cli.console_table import render
from raydfkd.cli.interruption import interrupted
from raydfkd.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from raydfkd.evaluation import Evaluation
    from raydfkd.pipeline.experiment.config import ExperimentConfig
    from raydfkd.run_dir import RunDir

StudentName = Annotated[
    str | None, typer.Option("--student", metavar="NAME", help="Name of the student, if the experiment has several.")
]


class Format(StrEnum):
    pt2 = "pt2"
    onnx = "onnx"
    safetensors = "safetensors"
    transformers = "transformers"
    timm = "timm"


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Model, data and training settings.")],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="The weights file to write.")],
    overrides: Overrides = None,
) -> None:
    """Train a teacher on labelled images."""
    from raydfkd.pipeline.teacher.config import load_teacher_training

    config = load_teacher_training(recipe, overrides or [])
    from raydfkd.pipeline.teacher.epoch_lines import EpochLines
    from raydfkd.pipeline.teacher.training import train_teacher

    try:
        result = train_teacher(config, out, EpochLines(typer.echo))
    except KeyboardInterrupt as error:
        raise interrupted(error, "a training keeps nothing before its end: the same command begins anew") from None
    typer.echo(f"{config.model}: {result.summary}")
    typer.echo(f"weights: {result.path}")


def evaluate(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="A weights file, or a finished run directory.")],
    overrides: Overrides = None,
    config: Annotated[
        Path | None, typer.Option(metavar="EXP.yaml", help="The experiment; otherwise the one of the run directory.")
    ] = None,
    name: StudentName = None,
) -> None:
    """Measure students and teacher on the evaluation data.

    In a run directory every student is measured; a weights file is assumed to be the first student's, or the one of --student.
    """
    from raydfkd.pipeline.experiment.config import load_experiment
    from raydfkd.run_dir import RunDir
    from raydfkd.tasks import build_task

    run = RunDir.open(student) if student.is_dir() else None
    if run is not None and config is None:
        config = run.config_path
    if config is None:
        raise ConfigError(f"evaluate needs --config EXP.yaml to know the data and the teacher of {student}")
    experiment = load_experiment(config, overrides or [])
    if experiment.evaluation is None:
        raise ConfigError(f"{config} names no evaluation data: add evaluation.dataset, or give it as KEY=VALUE")
    if name is not None and name not in experiment.students:
        raise ConfigError(f"{config} has no student {name!r}: use {', '.join(experiment.students)}")
    if run is None:
        files = [(student, experiment.student_name if name is None else name)]
    else:
        named = list(experiment.students) if name is None else [name]
        files = [(path, one) for one in named for path in _files_of(run, experiment, one)]
    measured, classes = _measure(experiment, files)
    others = list(dict.fromkeys(key for _, _, found in measured for key in found.others))
    headers = ("network", "model", build_task(experiment.task).metric_label, *(key.replace("_", " ") for key in others))
    rows = [_row(network, model, found, others) for network, model, found in measured]
    typer.echo(render((*headers, "agreement", "images", "split"), rows))
    if others:
        typer.echo()
        by_class = [(one, *(_share(found.per_class[k]) for _, _, found in measured)) for k, one in enumerate(classes)]
        typer.echo(render(("class", *(network for network, _, _ in measured)), by_class))


def _row(network: str, model: str, found: Evaluation, others: list[str]) -> tuple[object, ...]:
    figures = (found.metric, *(found.others[key] for key in others), found.agreement)
    return (network, model, *map(_share, figures), found.num_images, found.split)


def _share(value: float | None) -> str | None:
    return None if value is None or math.isnan(value) else f"{value:.2%}"


def _files_of(run: RunDir, experiment: ExperimentConfig, name: str) -> list[Path]:
    other = None if name == experiment.student_name else name
    paths = [run.student_path(other), run.student_path(other, ema=True)]
    if not paths[0].exists():
        raise CheckpointError(
            f"{run.path} holds no {paths[0].name} yet: the run has not finished, continue it with run --resume"
        )
    return [path for path in paths if path.exists()]


def _measure(
    experiment: ExperimentConfig, files: list[tuple[Path, str]]
) -> tuple[list[tuple[str, str, Evaluation]], tuple[str, ...]]:
    """(network, model, its evaluation) of the teacher and of each file, and the classes."""
    from raydfkd.models.weights import load_weights
    from raydfkd.pipeline.experiment import builder
    from raydfkd.pipeline.run.student_loop import normalized

    device = builder.choose_device(experiment)
    teacher = builder.build_frozen_teacher(experiment).to(device)
    networks = {name: builder.build_student(experiment, name=name).to(device) for _, name in files}
    for path, name in files:  # reject a wrong file before measuring anything
        load_weights(networks[name], path)
    evaluator = builder.build_evaluator(experiment, teacher, device)
    assert evaluator is not None, "the experiment names evaluation data"
    measured: list[tuple[str, str, Evaluation]] = []
    if evaluator.teacher is not None:
        measured.append(("teacher", experiment.teacher.model, evaluator.teacher))
    for path, name in files:
        load_weights(networks[name], path)
        found = evaluator.evaluate(normalized(teacher, networks[name]))
        measured.append((path.stem, experiment.model_of(name), found))
    return measured, evaluator.dataset.classes


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run directory, or a weights file made by raydfkd.")],
    format: Annotated[Format, typer.Option(help="File format.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write; of transformers and timm a new folder.")],
    ema: Annotated[bool, typer.Option("--ema", help="Export the moving average instead of the last weights.")] = False,
    name: StudentName = None,
    card: Annotated[
        bool | None,
        typer.Option("--card/--no-card", help="Write a model card beside it, from the run; by default in folders only."),
    ] = None,
) -> None:
    """Write a student as a file for other programs, or as a folder that transformers or timm load.

    pt2 and onnx take images in [0,1] and normalise them inside. What is written is loaded again and its outputs compared.
    """
    from raydfkd.models.export import FOLDER_FORMATS, export_folder, export_model
    from raydfkd.run_dir import RunDir

    if not run.is_dir() and (ema or name is not None):
        option = "--ema" if ema else "--student"
        raise ConfigError(f"{option} chooses a student of a run directory, but {run} is not one: leave it out")
    if name is not None:
        weights = RunDir.open(run).weights_of(name, ema)
    else:
        weights = RunDir(run).student_path(ema=ema) if run.is_dir() else run
    from raydfkd.models.catalog import build_classifier
    from raydfkd.models.classifiers.pruning import rebuild_pruned
    from raydfkd.models.shared_classifier import rebuild_shared_classifier
    from raydfkd.models.weights import load_weights, read_metadata

    metadata = read_metadata(weights)
    try:
        model, num_classes = metadata["model"], int(metadata["num_classes"])
        shape, mean, std = (json.loads(metadata[key]) for key in ("image_shape", "mean", "std"))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{weights} does not say which model it belongs to: give a file that raydfkd wrote") from error
    finished = RunDir(run if run.is_dir() else run.parent)
    if card and not finished.result_path.exists():
        raise ConfigError(f"a model card needs a finished run, and {finished.path} is none: leave --card out")
    network = build_classifier(model, num_classes, tuple(shape))
    if "pruned" in metadata:
        network = rebuild_pruned(network, metadata["pruned"], tuple(shape))
    if "shared_classifier" in metadata:
        network = rebuild_shared_classifier(network, metadata["shared_classifier"], num_classes)
    load_weights(network, weights)
    if format.value in FOLDER_FORMATS:
        classes = json.loads(metadata["classes"]) if "classes" in metadata else None
        difference = export_folder(network, model, tuple(shape), out, format.value, mean, std, classes)
    else:
        difference = export_model(network, tuple(shape), out, format.value, mean, std, metadata)
    typer.echo(f"{model} exported to {out} ({format.value}); its logits differ by at most {difference:.1e}")
    if card or (card is None and format.value in FOLDER_FORMATS and finished.result_path.exists()):
        from raydfkd.pipeline.run.model_card import write_card

        typer.echo(f"model card: {write_card(finished, out, format.value, metadata, student=name, ema=ema)}")
