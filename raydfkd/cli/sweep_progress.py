"""Live progress of a sweep: a table of its trials on a terminal, one plain line per event elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from raydfkd.cli.console_table import render
from raydfkd.report.result_rows import format_duration
from raydfkd.report.sweep.sweep_words import figure_text, settings_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

MOST_ROWS = 20


@dataclass
class TrialState:
    """The state of a trial."""

    settings: dict[str, Any] = field(default_factory=dict)
    state: str = "waiting"
    step: int = 0
    objective: float | None = None
    error: str = ""


class SweepProgress:
    """Shows the progress of a sweep. A context manager, and a ``SweepWatcher``.

    Args:
        title: heads the live table.
        console: where to write; by default standard output.
        clock: seconds, monotonic.
    """

    def __init__(
        self, *, title: str = "raydfkd sweep", console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if console is None:
            from rich.console import Console

            console = Console()
        self._console = console
        self._title = title
        self._clock = clock
        self._began = clock()
        self._trials: dict[str, TrialState] = {}
        self._num_trials = 0
        self._stage = "starting"
        self._lock = threading.Lock()
        self._live: Live | None = None

    def __enter__(self) -> SweepProgress:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def stage(self, name: str, detail: str = "") -> None:
        """Shows the sweep's current stage."""
        self._stage = f"{name} {detail}".strip()
        self._line(self._stage)

    def begin(self, num_trials: int, concurrent: int) -> None:
        """The trials start: how many in all, and at most how many at once."""
        self._num_trials = num_trials
        self.stage(f"{num_trials} trial{'s' if num_trials != 1 else ''}, {concurrent} at once")

    def update(self, trial: str, **values: Any) -> None:
        """News of a trial, see ``SweepWatcher``."""
        with self._lock:
            known = self._trials.setdefault(trial, TrialState())
            for name, value in values.items():
                setattr(known, name, value)
        self._line(f"[{format_duration(self._clock() - self._began)}] trial {trial} {_news(known, values)} | {self._counts()}")

    def finish(self, result: dict[str, Any]) -> None:
        """Ends the live table; the caller prints the outcome."""
        self.close()

    def close(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def _line(self, text: str) -> None:
        if self._live is None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True, emoji=False)

    def _counts(self) -> str:
        counts = Counter(trial.state for trial in self._trials.values())
        ended = counts["finished"] + counts["stopped"] + counts["failed"]
        parts = [f"{ended} of {self._num_trials} ended", f"{counts['running']} running"]
        return ", ".join(parts + [f"{counts['failed']} failed"] * bool(counts["failed"]))

    def _render(self) -> RenderableType:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            rows = sorted(self._trials.items(), key=lambda item: (item[1].state != "running", -(item[1].step)))
            caption = f"{self._stage}; {self._counts()}; {format_duration(self._clock() - self._began)} elapsed"
        look: dict[str, Any] = {"title_justify": "left", "caption_justify": "left", "box": box.ROUNDED}
        table = Table(title=Text(self._title), caption=Text(caption), **look)
        for header in ("trial", "state", "steps", "objective", "settings"):
            table.add_column(header, overflow="fold")
        for name, trial in rows[:MOST_ROWS]:
            cells = (name, trial.state, f"{trial.step:,}", figure_text(trial.objective), settings_text(trial.settings))
            table.add_row(*map(Text, cells))
        return table


def _news(trial: TrialState, values: dict[str, Any]) -> str:
    if "step" in values:
        return f"step {trial.step:,}, objective {figure_text(trial.objective)}"
    if trial.state == "failed":
        return f"failed: {trial.error}"
    if trial.state == "running":
        return f"running with {settings_text(trial.settings)}"
    return f"{trial.state} at step {trial.step:,}, objective {figure_text(trial.objective)}"


def outcome_lines(result: dict[str, Any]) -> list[str]:
    """The table of trials, best first, then what they were measured on and which is best."""
    sign = 1 if result["objective"]["mode"] == "min" else -1
    trials = sorted(
        result["trials"],
        key=lambda trial: (trial["objective"] is None, sign * (trial["objective"] or 0.0), trial["name"]),
    )
    rows = []
    for trial in trials:
        settings = settings_text(trial["settings"]) + (f" ({trial['error']})" if trial["error"] else "")
        steps, seconds = f"{trial['student_steps']:,}", format_duration(trial["time_s"])
        rows.append((trial["name"], trial["state"], figure_text(trial["objective"]), steps, seconds, settings))
    lines = render(("trial", "state", "objective", "steps", "time", "settings"), rows).splitlines()
    lines += ["", f"objective: {result['objective']['label']}, on {result['measured_on']}"]
    if result["best"] is None:
        return [*lines, "best trial: none, no trial was measured"]
    figure, settings = figure_text(result["best_objective"]), settings_text(result["best_settings"])
    return [*lines, f"best trial: {result['best']}, {figure} with {settings}"]
