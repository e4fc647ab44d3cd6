"""Live progress of a run: a table that redraws itself on a terminal, plain lines elsewhere.

It is fed with the records of metrics.jsonl as they are written and reads nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from raydfkd.cli.progress_state import ProgressState, plain_line, table_rows
from raydfkd.report.result_rows import MISSING, outcome_rows, student_headers, student_rows

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live


class Progress:
    """Shows the progress of a run. Use as a context manager; ``update``, ``stage`` and ``finish`` may come from any thread.

    Args:
        total_steps: student steps of the whole run, or None if not known (then no time left is shown).
        title: heads the live table, e.g. the experiment's name.
        metric_label: name of the evaluation's metric, as the task gives it.
        period_s: least seconds between two plain progress lines; stages and events are shown immediately.
        console: where to write; by default standard output.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        total_steps: int | None,
        *,
        title: str = "raydfkd",
        metric_label: str = "accuracy",
        period_s: float = 10.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if console is None:
            from rich.console import Console

            console = Console()
        self._console = console
        self._title = title
        self._period_s = period_s
        self._clock = clock
        self._state = ProgressState(total_steps=total_steps, metric_label=metric_label)
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._next_line_at = clock() + period_s
        self._unprinted = False

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def update(self, record: dict[str, Any]) -> None:
        """Takes one metrics record; kinds that are not shown are ignored."""
        with self._lock:
            known = self._state.take(record)
        if self._live is not None or not known:
            return
        if record["kind"] == "event":
            self._line(f"event: {record.get('message', '')}")
            return
        self._unprinted = True
        now = self._clock()
        if now >= self._next_line_at:
            self._next_line_at = now + self._period_s
            self._unprinted = False
            self._line(plain_line(self._state))

    def stage(self, name: str, detail: str = "") -> None:
        """Shows the run's current stage, e.g. ``stage("warm-up", "filling the buffer with 20 batches")``."""
        with self._lock:
            self._state.stage, self._state.stage_detail = name, detail
        if self._live is None:
            self._line(f"{name}: {detail}" if detail else name)

    def finish(self, result: dict[str, Any], report: Path | None = None) -> None:
        """Ends the live table and prints the outcome: ``result`` is result.json, ``report`` the path of the report."""
        if self._live is None and self._unprinted:
            self._unprinted = False
            self._line(plain_line(self._state))
        self._close()
        rows = [*outcome_rows(result), *_student_lines(result)]
        if self._console.is_terminal:
            self._console.print(_two_columns("outcome", rows))
        else:
            width = max((len(label) for label, _ in rows), default=0)
            self._line("outcome")
            for label, value in rows:
                self._line(f"  {label:<{width}}  {value}")
        if report is not None:
            self._line(f"report: {report}")

    def _close(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True, emoji=False)

    def _render(self) -> RenderableType:
        with self._lock:
            return _two_columns(self._title, table_rows(self._state))


def _student_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    """A row for each of several students; a single student is in the outcome's own rows."""
    students, headers = student_rows(result), student_headers(result)
    lines = [
        (f"student {name}", ", ".join([model, *(f"{h} {v}" for h, v in zip(headers[2:], values, strict=True) if v != MISSING)]))
        for name, model, *values in students
    ]
    return lines if len(lines) > 1 else []


def _two_columns(title: str, rows: list[tuple[str, str]]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=box.ROUNDED, show_header=False, pad_edge=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(Text(label), Text(value))
    return table
