"""Progress of work that counts: on a terminal one line that is overwritten, elsewhere a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

import typer

LINE_PERIOD_S = 5.0
TERMINAL_PERIOD_S = 0.2


class Lines:
    """Shows how much is done of one pass after the other.

    Args:
        unit: what a pass counts; None: its name says so.
        clock: in seconds.
        terminal: whether lines are overwritten; None: whether stdout is a terminal.
    """

    def __init__(
        self, unit: str | None = None, clock: Callable[[], float] = time.monotonic, terminal: bool | None = None
    ) -> None:
        self._unit = unit
        self._clock = clock
        self._terminal = sys.stdout.isatty() if terminal is None else terminal
        self._pass = ""
        self._began, self._begun_with, self._next_at = 0.0, 0, 0.0

    def __call__(self, name: str, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        now = self._clock()
        if name != self._pass:
            self._pass, self._began, self._begun_with, self._next_at = name, now, done, now
        if now < self._next_at and done < total:
            return
        self._next_at = now + (TERMINAL_PERIOD_S if self._terminal else LINE_PERIOD_S)
        spent_s, left = now - self._began, ""
        if done > self._begun_with and spent_s > 0:
            rate = (done - self._begun_with) / spent_s
            shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            left = f"  {shown} {self._unit or name}/s  {(total - done) / rate:.0f} s left"
        shown_figures = "".join(f"  {figure} {value:.4g}" for figure, value in (figures or {}).items())
        line = f"{name} {done:,}/{total:,}{shown_figures}{left}"
        typer.echo(f"\r\x1b[K{line}" if self._terminal else line, nl=not self._terminal or done >= total)
