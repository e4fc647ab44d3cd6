"""``raydfkd dataset fetch``: gets a named data set, from its public home or a local copy, as Parquet files."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydfkd.cli.console_table import render
from raydfkd.cli.interruption import interrupted

if TYPE_CHECKING:
    from raydfkd.data.fetching.fetch import FetchedSplit

LINE_PERIOD_S = 5.0
MOST_LEFT_OUT = 5


def fetch(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The data set, such as cifar10; without one, all are listed.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder to write below; otherwise the data root.")] = None,
    local: Annotated[
        Path | None, typer.Option("--from", metavar="PATH", help="A copy of it that is here already, to convert.")
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Stands in for scheme and host of every address; otherwise $RAYDFKD_DATA_MIRROR."),
    ] = None,
) -> None:
    """Get a named data set and write it as Parquet files, one for each split.

    The files lie below the data root ($RAYDFKD_DATA, otherwise data/ in the working directory), where a data set written as
    NAME/SPLIT is looked for. A download that was stopped goes on where it was, and a split that is there is kept.
    """
    if name is None:
        typer.echo(render(("name", "data set", "splits", "how"), _listed()))
        return
    from raydfkd.data.fetching.fetch import fetch as fetched

    try:
        with Progress() as progress:
            splits = fetched(name, out, local, mirror, progress)
    except KeyboardInterrupt as error:
        raise interrupted(error, "the same command goes on from there") from None
    typer.echo(render(("data set", "images", "published", "file", "SHA-256"), [_row(name, one) for one in splits]))
    left_out = [text for one in splits for text in one.left_out]
    for text in left_out[:MOST_LEFT_OUT]:
        typer.echo(f"left out, not readable: {text}")
    if len(left_out) > MOST_LEFT_OUT:
        typer.echo(f"left out, not readable: {len(left_out) - MOST_LEFT_OUT} more")
    for line in _remarks(name, splits):
        typer.echo(line)


def _listed() -> list[tuple[str, str, str, str]]:
    from raydfkd.data.catalogue import CATALOGUE

    return [
        (name, entry.title, ", ".join(entry.splits), "downloaded" if entry.downloads else "by hand, then --from PATH")
        for name, entry in CATALOGUE.items()
    ]


def _row(name: str, one: FetchedSplit) -> tuple[str, str, str, str, str]:
    images = "-" if one.images is None else f"{one.images:,}"
    kept = " (was there)" if one.kept else ""
    return f"{name}/{one.split}", images, f"{one.published:,}", f"{one.path}{kept}", one.sha256


def _remarks(name: str, splits: list[FetchedSplit]) -> list[str]:
    from raydfkd.data.catalogue import CATALOGUE

    missing = [split for split in CATALOGUE[name].splits if split not in {one.split for one in splits}]
    lines = [f"not in the copy, and therefore not written: {', '.join(missing)}"] if missing else []
    return [*lines, f"about {name} and its terms of use ({CATALOGUE[name].licence}): {CATALOGUE[name].page}"]


class Progress:
    """What is under way: on a terminal a bar, elsewhere a line every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, terminal: bool | None = None) -> None:
        import sys

        self._clock = clock
        self._terminal = sys.stdout.isatty() if terminal is None else terminal
        self._bar: Any = None
        self._task: Any = None
        self._under_way = ""
        self._next_at = 0.0

    def __enter__(self) -> Progress:
        if self._terminal:
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Tells it that ``done`` of ``total`` bytes or images (0: not known how many) of ``what`` are done."""
        changed = what != self._under_way
        self._under_way = what
        if self._bar is not None:
            if changed:
                self._task = self._bar.add_task(what, total=total or None)
            self._bar.update(self._task, completed=done, total=total or None)
            return
        now = self._clock()
        if changed or now >= self._next_at or done == total:
            self._next_at = now + LINE_PERIOD_S
            typer.echo(f"{what} {done:,}/{total:,}" if total else f"{what} {done:,}")
