"""``raydfkd status``, which reads a run directory, and ``scale`` and ``stop``, which call the run's actors from any shell."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydfkd.cli.console_table import render
from raydfkd.errors import WaitTimeoutError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from raydfkd.cli.live_state import RunStatus

GENERATOR_COLUMNS = ("generator", "state", "pid", "images synthesized", "s per batch", "restarts")

REDRAW_S = 1.0
STOP_POLL_S = 0.5

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.", show_default=False)]
Address = Annotated[
    str | None, typer.Option(help="Address of the run's Ray, if this shell needs a different one (ray://HOST:10001).")
]


def scale(
    run: Run,
    generators: Annotated[int, typer.Option(help="New number of generators of the source.", show_default=False)],
    source: Annotated[str | None, typer.Option(help="Name of the source; required if the run has several.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for generators to start or end.")] = 15.0,
    address: Address = None,
) -> None:
    """Change the number of a source's generators during the run.

    Surplus generators finish their batch and their state is kept: scaling up again continues from it. Generators for which no
    resources are free wait for them.
    """
    from raydfkd.run_dir import RunDir
    from raydfkd.runtime.live_run import reach

    with reach(RunDir.open(run), address) as live:
        status = live.scale(source, generators, wait)
    name = source if source is not None else next(iter(status))
    counts = status[name]
    rest = [f"{counts[phase]} {text}" for phase, text in _PHASES.items() if counts[phase]]
    typer.echo(", ".join([f"{name}: {counts['running']} of {counts['target']} generators run", *rest]))


_PHASES = {"starting": "start", "pending": "wait for free resources", "draining": "end after their batch"}


def status(
    run: Run,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and exit.")] = False,
) -> None:
    """Show the status of a run: progress, buffer, waits, and every generator.

    On a terminal the table is updated until the run ends, or until Ctrl-C. Everything is read from the run directory, so this
    works in any shell that can read it.
    """
    from rich.console import Console

    from raydfkd.cli.live_state import RunStatus
    from raydfkd.run_dir import RunDir

    known, console = RunStatus(RunDir.open(run)), Console()
    known.refresh()
    if as_json:
        typer.echo(json.dumps(known.as_json()))
    elif console.is_terminal and known.state == "running":
        _follow(known, console)
    else:
        width = max(len(label) for label, _ in known.rows())
        typer.echo("\n".join(f"{label:<{width}}  {value}" for label, value in known.rows()))
        typer.echo("\n" + render(GENERATOR_COLUMNS, known.generator_rows()))


def stop(
    run: Run,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for the run to end.")] = 600.0,
    address: Address = None,
) -> None:
    """Stop a run cleanly: the student finishes its round, everything is saved, and --resume continues from there."""
    from raydfkd.run_dir import RunDir
    from raydfkd.runtime.live_run import reach

    directory = RunDir.open(run)
    with reach(directory, address) as live:
        live.request_stop()
    # Outside of the block: a local Ray ends with its run, and this process must have left it by then.
    deadline = time.monotonic() + timeout
    while directory.manifest().get("state") == "running":
        if time.monotonic() > deadline:
            raise WaitTimeoutError(
                f"waited {timeout:.0f} s for the run in {run} to stop: it was asked to, and will stop after its round"
            )
        time.sleep(STOP_POLL_S)
    state = directory.manifest().get("state")
    advice = "read its report" if state == "finished" else f"resume it with: raydfkd run {run} --resume"
    typer.echo(f"the run in {run} is {state}; {advice}")


def _follow(known: RunStatus, console: Any) -> None:
    from rich.live import Live

    with contextlib.suppress(KeyboardInterrupt), Live(_picture(known), console=console, refresh_per_second=4) as picture:
        while known.state == "running":
            time.sleep(REDRAW_S)
            known.refresh()
            picture.update(_picture(known))


def _picture(known: RunStatus) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = Table(title=Text(f"raydfkd {known.run.path}"), title_justify="left", box=box.ROUNDED, show_header=False)
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    for label, value in known.rows():
        rows.add_row(Text(label), Text(value))
    generators = Table(*GENERATOR_COLUMNS, box=box.ROUNDED)
    for row in known.generator_rows():
        generators.add_row(*map(Text, row))
    return Group(rows, generators)
