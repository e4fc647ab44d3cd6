"""``raydfkd sweep``: many trials of one experiment, with live progress, and the best of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from raydfkd.cli.arguments import Overrides
from raydfkd.cli.interruption import interrupted


def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="A sweep, or a sweep directory, whose sweep is used.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Sweep directory; otherwise runtime.out, otherwise runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the sweep in the sweep directory.")] = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; replaces runtime.address.")] = None,
) -> None:
    """Compare settings of an experiment, as SWEEP.yaml specifies.

    KEY=VALUE replaces the sweep's own keys (search.num_trials=4), overrides.KEY=VALUE its experiment's.
    """
    from raydfkd.api import sweep as run_sweep
    from raydfkd.cli.sweep_progress import SweepProgress, outcome_lines

    with SweepProgress(title=f"raydfkd sweep {file.stem}") as progress:
        try:
            done = run_sweep(file, overrides=overrides or [], out=out, resume=resume, address=address, watcher=progress)
        except KeyboardInterrupt as error:
            progress.close()
            raise interrupted(error, "resume it with --resume and the same sweep directory") from None
    _tell(outcome_lines(done.result), done)


def _tell(lines: list[str], done: Any) -> None:
    for line in lines:
        typer.echo(line)
    typer.echo(f"sweep directory: {done.sweep_dir}")
    if done.best is not None:
        typer.echo(f"best: {done.best}")
    typer.echo(f"report: {done.report}")
