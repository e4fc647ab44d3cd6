"""``raydfkd dataset build``: from any images, or none that mean anything, to a data set made for distillation."""

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
        Path, typer.Argument(metavar="BUILD.yaml", help="What to build of what, or a data set's folder for the one it holds.")
    ],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the data set; otherwise datasets/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the data set that was begun in that folder.")] = False,
) -> None:
    """Build a data set to distil on, balanced over the teacher's classes.

    Reads or renders candidates, lets the teacher judge them, chooses, and writes Parquet files that an experiment takes as
    collected images (collected.dataset: {kind: parquet, path: DIR}).
    """
    from raydfkd.api import build_dataset

    try:
        done = build_dataset(file, overrides=overrides or [], out=out, resume=resume, tell=Lines())
    except KeyboardInterrupt:
        typer.echo("raydfkd: stopped by Ctrl-C; a build that had begun goes on with --resume and the same folder", err=True)
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
        ("classes that the teacher sees in none", missing),
        ("relative class entropy of the candidates", found["candidate_class_entropy"]),
        ("images", found["num_images"]),
        ("distinct candidates among them", found["num_distinct_candidates"]),
        ("images of the boundary attack among them", found["num_attacked_images"]),
        ("relative class entropy", found["class_entropy"]),
        ("seconds", found["seconds"]),
    ]
    rows += [("left out", name) for name in found["skipped"][:5]]
    return rows


class Lines:
    """How far a pass is: one line that is written over on a terminal, a line every few seconds anywhere else."""

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
