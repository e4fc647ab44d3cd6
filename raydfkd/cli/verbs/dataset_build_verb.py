"""``raydfkd dataset build``: makes a data set for distillation from any images, or from procedural ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from raydfkd.cli.arguments import Overrides
from raydfkd.cli.console_table import render
from raydfkd.cli.interruption import interrupted
from raydfkd.cli.lines import Lines


def build(
    file: Annotated[
        Path, typer.Argument(metavar="BUILD.yaml", help="The build's file, or a data set's folder, whose build file is used.")
    ],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the data set; otherwise datasets/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished build in that folder.")] = False,
) -> None:
    """Build a data set to distil on, balanced over the teacher's classes.

    Reads or renders candidates, classifies them with the teacher, selects a balanced set, and writes Parquet
    files that an experiment takes as collected images (collected.dataset: {kind: parquet, path: DIR}).
    """
    from raydfkd.api import build_dataset

    try:
        done = build_dataset(file, overrides=overrides or [], out=out, resume=resume, tell=Lines("images"))
    except KeyboardInterrupt as error:
        raise interrupted(error, "continue a started build with --resume and the same folder") from None
    found = done.manifest
    typer.echo(render(("figure", "value"), _rows(found)))
    typer.echo()
    typer.echo(done.starvation)
    typer.echo(f"data set: {done.path}")


def _rows(found: dict[str, Any]) -> list[tuple[str, object]]:
    missing = sum(count == 0 for count in found["candidate_class_counts"])
    rows: list[tuple[str, object]] = [
        ("candidates", found["num_candidates"]),
        ("could not be read", found["num_skipped"]),
        *((f"dropped: {reason.replace('_', ' ')}", count) for reason, count in sorted(found["dropped"].items())),
        ("classes that the teacher assigns to no image", missing),
        ("relative class entropy of the candidates", found["candidate_class_entropy"]),
        ("images", found["num_images"]),
        ("of which distinct candidates", found["num_distinct_candidates"]),
        ("of which images of the boundary attack", found["num_attacked_images"]),
        ("relative class entropy", found["class_entropy"]),
        ("seconds", found["seconds"]),
    ]
    rows += [("left out", name) for name in found["skipped"][:5]]
    return rows
