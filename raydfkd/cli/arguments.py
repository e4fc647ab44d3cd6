"""Command-line arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Experiment = Annotated[
    Path, typer.Argument(metavar="EXP.yaml", help="An experiment, or a run directory, whose experiment is used.")
]

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Settings that replace the file's, such as schedule.rounds=20.", show_default=False
    ),
]


def experiment_path(given: Path) -> Path:
    """The experiment's file: ``given`` itself, or the resolved experiment of the run directory ``given``."""
    if not given.is_dir():
        return given
    from raydfkd.run_dir import RunDir

    return RunDir.open(given).config_path
