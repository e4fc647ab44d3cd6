"""``raydfkd train-teacher``: supervised training of a network on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raydfkd.cli.arguments import Overrides
from raydfkd.cli.interruption import interrupted


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
