"""Follows a method's run: how long it has trained, whether its budget is spent, and whether it collapses, which ends it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from raydfkd.evaluation.collapse import EARLY_SHARE, CollapseWatch
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run.recorder import Watcher
from raydfkd.run_dir import RunDir
from raydfkd.run_records import number

MEASUREMENTS = ("evaluation", "held_out")
"""Kinds of records that are made by measuring the student, which costs time that no method has to spend."""

WORK = {"synthesis": "seconds", "preparation": "prepare_s", "few_shot": "few_shot_s"}
"""Fields of records that say how long the work took which they report."""

End = Literal["budget", "collapsed"]


class RunEnded(KeyboardInterrupt):
    """The bench ends a method's run, which treats it as an ordinary stop.

    Attributes:
        end: why.
    """

    def __init__(self, end: End, reason: str) -> None:
        super().__init__(reason)
        self.end: End = end


def is_resume(record: dict[str, Any]) -> bool:
    """Whether the run goes on from a checkpoint at this record."""
    return record["kind"] == "event" and str(record.get("message", "")).startswith("resumed from")


class TrainingClock:
    """From a run's records, in their order, to the seconds that it has trained until each: all but building its parts and
    measuring its student."""

    def __init__(self) -> None:
        self._last = self._idle = 0.0
        self._starting = True

    def at(self, record: dict[str, Any]) -> float:
        """Seconds of training until this record."""
        now = max(self._last, float(record["time_s"]))
        if record["kind"] == "event":
            self._starting |= is_resume(record)
        elif self._starting:
            # Its own work, but not what came before it, is training.
            self._idle += max(0.0, now - self._last - number(record.get(WORK.get(record["kind"], ""))))
            self._starting = False
        elif record["kind"] in MEASUREMENTS:
            self._idle += now - self._last
        if record["kind"] != "event":
            self._last = now
        return max(0.0, now - self._idle)


class BudgetWatch(Watcher):
    """Passes a run's records on, and ends the run where its budget is spent or a collapse is seen.

    Args:
        config: the run's experiment.
        seconds: how long it may train; None: to its schedule's end.
        display: gets everything too.
        run: its directory, which has the records of its earlier starts.
    """

    def __init__(self, config: ExperimentConfig, seconds: float | None, display: Watcher, run: RunDir) -> None:
        self._seconds, self._display, self._run = seconds, display, run
        self._num_classes, self._total_steps = config.task.num_classes, config.schedule.total_steps
        self._begin([])

    def _begin(self, before: Iterable[dict[str, Any]]) -> None:
        self._clock = TrainingClock()
        self._collapse = CollapseWatch(self._num_classes, self._total_steps, lambda source: "its run is ended")
        for record in before:
            self._clock.at(record)
            self._collapsed(record)

    def stage(self, name: str, detail: str = "") -> None:
        self._display.stage(name, detail)

    def update(self, record: dict[str, Any]) -> None:
        """Takes a record.

        Raises:
            RunEnded: the run is to end.
        """
        self._display.update(record)
        if is_resume(record):
            self._begin(self._run.metrics())  # of which those after the checkpoint have been removed by now
        trained_s = self._clock.at(record)
        for notice in self._collapsed(record):
            raise RunEnded("collapsed", notice)
        if self._seconds is not None and trained_s >= self._seconds and record["step"] < self._total_steps:
            share = record["step"] / self._total_steps
            raise RunEnded("budget", f"the budget was spent at {share:.0%} of the schedule")

    def _collapsed(self, record: dict[str, Any]) -> list[str]:
        """What is said of a collapse. A generator may begin with few classes: its images are looked at as late as students."""
        if record["kind"] == "synthesis" and record["step"] < EARLY_SHARE * self._total_steps:
            return []
        return self._collapse.notices(record)

    def finish(self, result: dict[str, Any]) -> None:
        self._display.finish(result)
