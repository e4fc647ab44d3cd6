"""``raydfkd dataset``: its verbs, and ``inspect``: how useful images are for distillation, before a student trains on them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raydfkd.cli.console_table import render
from raydfkd.cli.verbs.dataset_build_verb import build
from raydfkd.cli.verbs.dataset_fetch_verb import fetch
from raydfkd.errors import ConfigError

if TYPE_CHECKING:
    from raydfkd.evaluation.transfer_set import TransferSetFigures

app = typer.Typer(help="Data sets to distil on.", no_args_is_help=True)

MOST_LISTED_CLASSES = 20
BAR_WIDTH = 40


@app.callback()
def dataset() -> None:
    """Data sets to distil on."""


app.command("build")(build)
app.command("fetch")(fetch)


@app.command()
def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A folder of images or of Parquet files, a named data set such as cifar10/test, a YAML file that names a data "
            "set, or a run (for its buffer).",
        ),
    ],
    teacher: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights from train-teacher, or an experiment; not needed for a run directory."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the figures and their plots.")] = None,
    attacked: Annotated[int, typer.Option(min=0, help="Images whose distance to the boundary is measured.")] = 200,
    max_images: Annotated[int | None, typer.Option(min=1, help="Images read at most, evenly spaced.")] = None,
) -> None:
    """Measure how good images are to distil on, from the teacher's predictions alone.

    Prints the histogram of predicted classes and its relative entropy, the teacher's confidence, the images' diversity and
    their distance to the decision boundary, and the classes with too few images.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file: name a folder")
    figures, names = _measure(path, teacher, attacked, max_images)
    from raydfkd.evaluation.transfer_set import describe_starvation

    typer.echo(render(("figure", "value"), figures.rows()))
    typer.echo()
    typer.echo(render(("class", "images", ""), _bars(figures, names)))
    typer.echo()
    typer.echo(describe_starvation(figures.class_counts, figures.distinct_class_counts, names))
    if out is not None:
        _write(figures, names, out)
        typer.echo(f"figures: {out}")


def _measure(
    path: Path, teacher_path: Path | None, attacked: int, max_images: int | None
) -> tuple[TransferSetFigures, Sequence[str] | None]:
    import torch

    from raydfkd.evaluation.transfer_set import inspect_images
    from raydfkd.pipeline.dataset import inspection
    from raydfkd.pipeline.experiment.builder import build_frozen_teacher, class_names
    from raydfkd.run_dir import RunDir

    if (path / "manifest.json").exists():
        config, images = inspection.run_images(RunDir.open(path), max_images)
        if teacher_path is None:
            teacher, names = build_frozen_teacher(config), class_names(config.teacher.weights, config.teacher.model)
        else:
            teacher, names = inspection.teacher_of(teacher_path)
    elif teacher_path is None:
        raise ConfigError(f"dataset inspect needs --teacher FILE to judge {path}: weights that train-teacher wrote")
    else:
        teacher, names = inspection.teacher_of(teacher_path)
        images = inspection.dataset_images(path, teacher.image_shape, max_images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return inspect_images(teacher, images, device, num_attacked=attacked), names


def _bars(figures: TransferSetFigures, names: Sequence[str] | None) -> list[tuple[str, int, str]]:
    """The histogram as text; with many classes, only the largest and the smallest."""
    counts = figures.class_counts
    order = list(range(len(counts)))
    if len(order) > MOST_LISTED_CLASSES:
        fullest = (-counts).argsort(kind="stable").tolist()
        order = fullest[: MOST_LISTED_CLASSES // 2] + fullest[-MOST_LISTED_CLASSES // 2 :]
    longest = max(1, int(counts.max()))
    held = [int(counts[k]) for k in order]
    named = [str(k) if names is None else names[k] for k in order]
    return [(name, count, "#" * round(BAR_WIDTH * count / longest)) for name, count in zip(named, held, strict=True)]


def _write(figures: TransferSetFigures, names: Sequence[str] | None, out: Path) -> None:
    from raydfkd.report.figures import class_histogram, histogram
    from raydfkd.report.pictures import figure_png
    from raydfkd.run_dir import write_atomically

    counts = figures.class_counts
    shown = [str(k) for k in range(len(counts))] if names is None else list(names)
    plots = {
        "classes": class_histogram(counts, shown, "Images by the teacher's class"),
        "confidence": histogram(figures.confidences, "Confidence of the teacher", "largest probability", (0.0, 1.0)),
    }
    if len(figures.pair_distances):
        distances, span = figures.pair_distances, (0.0, max(1.0, float(figures.pair_distances.max())))
        label = "cosine distance of the teacher's features"
        plots["diversity"] = histogram(distances, "Diversity of the images", label, span, counted="pairs")
    reached = figures.boundary_distances[figures.boundary_distances < math.inf]
    if len(reached):
        plots["boundary"] = histogram(reached, "Distance to the decision boundary", "L2 over pixels in [0,1]")
    out.mkdir(parents=True, exist_ok=True)
    for name, plot in plots.items():
        write_atomically(out / f"{name}.png", figure_png(plot))
    values = {name: None if isinstance(value, float) and math.isinf(value) else value for name, value in figures.rows()}
    values |= {"class counts": counts.tolist(), "distinct class counts": figures.distinct_class_counts.tolist()}
    write_atomically(out / "figures.json", json.dumps(values, indent=1) + "\n")
