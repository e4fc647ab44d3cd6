"""``raydfkd evaluate`` and ``raydfkd export``: what a student's weights are worth, and other programs' formats of them."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydfkd.cli.arguments import Overrides
from raydfkd.cli.table import render
from raydfkd.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from raydfkd.pipeline.config import ExperimentConfig

STUDENT, STUDENT_EMA = "student.safetensors", "student_ema.safetensors"


class Format(StrEnum):
    pt2 = "pt2"
    onnx = "onnx"
    safetensors = "safetensors"


def evaluate(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="A weights file, or a finished run directory.")],
    overrides: Overrides = None,
    config: Annotated[
        Path | None, typer.Option(metavar="EXP.yaml", help="The experiment; otherwise that of the run directory.")
    ] = None,
) -> None:
    """Measure students and teacher on the evaluation data."""
    from raydfkd.pipeline.config import load_experiment
    from raydfkd.run_dir import RunDir

    if student.is_dir():
        run = RunDir.open(student)
        config = run.config_path if config is None else config
        files = [path for path in (run.path / STUDENT, run.path / STUDENT_EMA) if path.exists()]
        if not files:
            raise CheckpointError(f"{student} holds no {STUDENT} yet: the run has not finished, continue it with run --resume")
    else:
        files = [student]
    if config is None:
        raise ConfigError(f"evaluate needs --config EXP.yaml to know the data and the teacher of {student}")
    experiment = load_experiment(config, overrides or [])
    if experiment.evaluation is None:
        raise ConfigError(f"{config} names no evaluation data: add evaluation.dataset, or give it as KEY=VALUE")
    rows = _measure(experiment, files)
    typer.echo(render(("network", "model", "accuracy", "agreement", "images", "split"), rows))


def _measure(experiment: ExperimentConfig, files: list[Path]) -> list[tuple[Any, ...]]:
    from raydfkd.models.weights import load_weights
    from raydfkd.pipeline import builder
    from raydfkd.pipeline.student_loop import normalized

    device = builder.choose_device(experiment)
    teacher = builder.build_frozen_teacher(experiment).to(device)
    network = builder.build_student(experiment).to(device)
    for path in files:  # a wrong file is refused before anything is measured
        load_weights(network, path)
    evaluator = builder.build_evaluator(experiment, teacher, device)
    assert evaluator is not None, "the experiment names evaluation data"
    rows: list[tuple[Any, ...]] = []
    if evaluator.teacher is not None:
        found = evaluator.teacher
        rows.append(("teacher", experiment.teacher.model, f"{found.metric:.2%}", None, found.num_images, found.split))
    for path in files:
        load_weights(network, path)
        found = evaluator.evaluate(normalized(teacher, network))
        agreement = None if found.agreement is None else f"{found.agreement:.2%}"
        rows.append((path.stem, experiment.student.model, f"{found.metric:.2%}", agreement, found.num_images, found.split))
    return rows


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run directory, or a weights file made by raydfkd.")],
    format: Annotated[Format, typer.Option(help="File format.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")],
    ema: Annotated[bool, typer.Option("--ema", help="The run's moving average in place of its last student.")] = False,
) -> None:
    """Write a student as a file for other programs.

    pt2 and onnx take images in [0,1] and normalise them inside. The file is loaded again and compared.
    """
    weights = run / (STUDENT_EMA if ema else STUDENT) if run.is_dir() else run
    if ema and not run.is_dir():
        raise ConfigError(f"--ema chooses between the two students of a run directory, but {run} is none: leave it out")
    from raydfkd.models.catalog import build_classifier
    from raydfkd.models.export import export_model
    from raydfkd.models.shared_classifier import rebuild_shared_classifier
    from raydfkd.models.weights import load_weights, read_metadata

    metadata = read_metadata(weights)
    try:
        model, classes = metadata["model"], int(metadata["num_classes"])
        shape, mean, std = (json.loads(metadata[key]) for key in ("image_shape", "mean", "std"))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{weights} does not say which model it is of: give a file that raydfkd wrote") from error
    network = build_classifier(model, classes, tuple(shape))
    if "shared_classifier" in metadata:
        network = rebuild_shared_classifier(network, metadata["shared_classifier"], classes)
    load_weights(network, weights)
    difference = export_model(network, tuple(shape), out, format.value, mean, std, metadata)
    typer.echo(f"{model} exported to {out} ({format.value}); its logits differ by at most {difference:.1e}")
