"""``raydfkd dataset build``: makes a data set for distillation from any images, or from procedural ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from raydfkd.cli.arguments import Overrides
from raydfkd.cli.console_table import render

LINE_PERIOD_S = 5.0
TERMINAL_PERIOD_S = 0.2


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
        done = build_dataset(file, overrides=overrides or [], out=out, resume=resume, tell=Lines())
    except KeyboardInterrupt:
        typer.echo("raydfkd: stopped by Ctrl-C; continue a started build with --resume and the same folder", err=True)
        raise typer.Exit(130) from None
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


class Lines:
    """Progress of a pass: on a terminal one line that is overwritten, elsewhere a line every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, terminal: bool | None = None) -> None:
        import sys

        self._clock = clock
        self._terminal = sys.stdout.isatty() if terminal is None else terminal
        self._pass = ""
        self._began, self._begun_with, self._next_at = 0.0, 0, 0.0

    def __call__(self, name: str, done: int, total: int) -> None:
        now = self._clock()
        if name != self._pass:
            self._pass, self._began, self._begun_with, self._next_at = name, now, done, now
        if now < self._next_at and done < total:
            return
        self._next_at = now + (TERMINAL_PERIOD_S if self._terminal else LINE_PERIOD_S)
        spent_s, left = now - self._began, ""
        if done > self._begun_with and spent_s > 0:
            rate = (done - self._begun_with) / spent_s
            left = f"  {rate:,.0f} images/s  {(total - done) / rate:.0f} s left"
        line = f"{name} {done:,}/{total:,}{left}"
        typer.echo(f"\r\x1b[K{line}" if self._terminal else line, nl=not self._terminal or done >= total)
