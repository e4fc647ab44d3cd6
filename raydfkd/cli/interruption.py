"""What a command says when it is interrupted, by Ctrl-C or a signal, and its exit code."""

from __future__ import annotations

import typer


def interrupted(error: KeyboardInterrupt, advice: str) -> typer.Exit:
    """Says what stopped the command and how to go on: as a note of ``error`` says it, otherwise ``advice``."""
    from raydfkd.pipeline.run.stop_signals import StopSignal

    by, code = (str(error), error.exit_code) if isinstance(error, StopSignal) else ("Ctrl-C", 130)
    notes = getattr(error, "__notes__", [])
    typer.echo(f"raydfkd: stopped by {by}; {notes[0] if notes else advice}", err=True)
    return typer.Exit(code)
