"""``raydfkd train-teacher``: supervised training of a network on labelled images."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from raydfkd.cli.arguments import Overrides

LINE_PERIOD_S = 5.0


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Model, data and training settings.")],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="The weights file to write.")],
    overrides: Overrides = None,
) -> None:
    """Train a teacher on labelled images."""
    from raydfkd.pipeline.teacher.config import load_teacher_training

    config = load_teacher_training(recipe, overrides or [])
    from raydfkd.pipeline.teacher.training import train_teacher

    result = train_teacher(config, out, EpochLines())
    measured = "" if result.accuracy is None else f", accuracy {result.accuracy:.2%} on the evaluation data"
    typer.echo(f"{config.model}: {result.epochs} epochs in {result.seconds:.0f} s{measured}")
    typer.echo(f"weights: {result.path}")


class EpochLines:
    """One line per epoch, but at most one every ``LINE_PERIOD_S`` seconds; always one for the last epoch."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_at = clock()

    def __call__(self, record: dict[str, Any]) -> None:
        now = self._clock()
        if now < self._next_at and record["epoch"] < record["epochs"]:
            return
        self._next_at = now + LINE_PERIOD_S
        left_s = record["elapsed_s"] / record["epoch"] * (record["epochs"] - record["epoch"])
        typer.echo(
            f"epoch {record['epoch']}/{record['epochs']}  loss {record['loss']:.4f}  "
            f"training accuracy {record['train_accuracy']:.1%}  lr {record['lr']:.4g}  "
            f"{record['images_per_s']:,.0f} images/s  {left_s:.0f} s left"
        )
