"""The section that shows what share of their time students and generators waited, and for what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raydfkd import metrics
from raydfkd.report import figures, style
from raydfkd.report.loading import Record, RunData, series
from raydfkd.report.page_parts import LeftOut, Section
from raydfkd.report.pictures import figure_svg
from raydfkd.report.result_rows import format_duration

_HARDLY = 0.001
"""Of the time; less is said in a sentence and not plotted."""
_MOST_GROUPS = 80
_COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.SKY, style.VERMILLION)


@dataclass(frozen=True)
class Waits:
    """Waits over intervals of time.

    Attributes:
        seconds: ends of the intervals [n].
        intervals: the time in each that could have been waited [n].
        causes: seconds waited by the metric's label [n].
    """

    seconds: np.ndarray
    intervals: np.ndarray
    causes: dict[str, np.ndarray]

    def where(self, chosen: np.ndarray) -> Waits:
        """The intervals of a mask [n]."""
        causes = {cause: waited[chosen] for cause, waited in self.causes.items()}
        return Waits(self.seconds[chosen], self.intervals[chosen], causes)

    @property
    def total_s(self) -> float:
        return sum(float(waited.sum()) for waited in self.causes.values())


def waits(run: RunData) -> Section:
    students = run.by_owner("throughput")
    waiters, plots, notes = [], [], []
    for name, records in students.items():
        who = "The student" if len(students) == 1 else f"Student {name}"
        waited, begun = _student_waits(records), _begun(records)
        early_s = waited.where(~begun).total_s
        if early_s > 0:
            notes.append(f"{who} waited {format_duration(early_s)} before its first recorded step; the plot leaves that out.")
        waiters.append((who, waited.where(begun)))
    waiters.append(("Generators", _generator_waits(run)))
    waiters = [(who, waited) for who, waited in waiters if waited.causes and waited.intervals.sum() > 0]
    if not waiters:
        raise LeftOut("there are too few records with waits yet")
    for who, waited in waiters:
        if waited.total_s < _HARDLY * waited.intervals.sum():
            notes.append(f"{who} waited less than {100 * _HARDLY:.1f}% of the time.")
        else:
            plots.append(_plot(who, waited))
    return Section(plots=plots, notes=notes)


def _student_waits(records: list[Record]) -> Waits:
    seconds = np.array([float(record["time_s"]) for record in records])
    return Waits(seconds, np.diff(seconds, prepend=0.0), _causes("throughput", records))


def _begun(records: list[Record]) -> np.ndarray:
    """Mask [n] of the records of intervals that began after the student's first step."""
    steps = np.array([float(record["step"]) for record in records])
    return np.concatenate([[False], steps[:-1] > 0])[: len(steps)].astype(bool)


def _generator_waits(run: RunData) -> Waits:
    """All generators together, over groups of about four batches: what they waited before them, and the work on them."""
    records = [record for record in run.of_kind("synthesis") if isinstance(record.get("seconds"), int | float)]
    if not records:
        return Waits(np.empty(0), np.empty(0), {})
    worked, at = series(records, "seconds", "time_s")
    num = min(_MOST_GROUPS, max(len(at) // 4, min(len(at), 4)))
    starts = np.linspace(0, len(at), num, endpoint=False).astype(np.int64)
    causes = {cause: np.add.reduceat(each, starts) for cause, each in _causes("synthesis", records).items()}
    ends = at[np.append(starts[1:], len(at)) - 1]
    return Waits(ends, np.add.reduceat(worked, starts) + sum(causes.values()), causes)


def _causes(kind: str, records: list[Record]) -> dict[str, np.ndarray]:
    """Seconds waited by label [n], for the causes that any record has."""
    waited = [metrics.waited_s(kind, record) for record in records]
    found = [metric for metric in metrics.waits_of(kind) if any(metric.key in each for each in waited)]
    return {metric.label: np.array([each.get(metric.key, 0.0) for each in waited]) for metric in found}


def _plot(who: str, waited: Waits) -> str:
    labels = list(dict.fromkeys(metric.label for metric in metrics.of_section("waits")))
    colours = [_COLOURS[labels.index(cause) % len(_COLOURS)] for cause in waited.causes]
    shares = {
        f"{cause}, {100 * each.sum() / waited.intervals.sum():.1f}% of all time": np.clip(
            each / np.maximum(waited.intervals, 1e-9), 0, 1
        )
        for cause, each in waited.causes.items()
    }
    time, label = figures.time_axis(waited.seconds)
    figure = figures.stacked_shares(time, shares, colours, f"{who}: share of time spent waiting", label)
    return figure_svg(figure, f"waits-{who.lower().replace(' ', '-')}")
