"""The state of a running experiment according to its metrics records, and that state as text. Draws nothing itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raydfkd.metrics import STUDENT_KINDS, find, waited_s, waits_of
from raydfkd.report.result_rows import format_duration, format_percent, format_rate
from raydfkd.run_records import Record, RunTotals, number, rates, student_of

_PACE_WINDOW_S = 120.0
_SYNTHESIS_WINDOW_S = 60.0
_KINDS = ("few_shot", "preparation", "synthesis", "distillation", "replay", "throughput", "evaluation", "event")
_BAR_WIDTH = 24
_LEAST_SHARE = 0.005


@dataclass
class ProgressState:
    """The newest value of everything that is shown; :meth:`take` updates it."""

    total_steps: int | None
    metric_label: str = "accuracy"
    stage: str = "starting"
    stage_detail: str = ""
    step: int = 0
    time_s: float = 0.0
    last_event: str = ""
    totals: RunTotals = field(default_factory=RunTotals)
    newest: dict[str, Record] = field(default_factory=dict)
    """The newest record of each kind."""
    students: dict[str, dict[str, Record]] = field(default_factory=dict)
    """By student: its newest record of each kind."""
    wait_shares: dict[str, float] = field(default_factory=dict)
    """Share of the time waited, by cause such as ``student_wait_data``; of several students the largest."""
    _student_shares: dict[str, dict[str, float]] = field(default_factory=dict)
    _pace: deque[tuple[float, int]] = field(default_factory=deque)
    _batches: deque[Record] = field(default_factory=deque)

    def take(self, record: dict[str, Any]) -> bool:
        """Takes one record; returns False for kinds that are not shown."""
        kind = record.get("kind")
        if kind not in _KINDS:
            return False
        self.totals.take(record)
        self.time_s = max(self.time_s, number(record.get("time_s")))
        known = self.students.setdefault(student_of(record, self.students), {}) if kind in STUDENT_KINDS else None
        step = int(record.get("step", 0))
        if known is not None and len(self.students) > 1:
            others = [of_one for of_one in self.students.values() if of_one is not known]
            step = min(step, *(max((int(r.get("step", 0)) for r in of_one.values()), default=0) for of_one in others))
        self._advance(step, number(record.get("time_s")))
        if kind == "throughput":
            self._take_student_waits(record)
        if kind == "preparation":
            self.stage_detail = f"{record.get('generator_id')}, step {record.get('done'):,} of {record.get('total'):,}"
        if kind == "few_shot":
            self.stage_detail = f"{record.get('student')}, step {record.get('done'):,} of {record.get('total'):,}"
        if kind == "synthesis":
            self._take_batch(record)
        if kind == "event":
            self.last_event = str(record.get("message", ""))
        self.newest[kind] = record
        if known is not None:
            known[kind] = record
        return True

    def of_students(self, kind: str, key: str) -> dict[str, float]:
        """Each student's newest ``key`` of ``kind``; without those that have none."""
        found = {name: records.get(kind, {}).get(key) for name, records in self.students.items()}
        return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}

    def total(self, kind: str, key: str) -> float | None:
        """Over all students; None where none has it."""
        found = self.of_students(kind, key)
        return sum(found.values()) if found else None

    def value(self, kind: str, key: str) -> float | None:
        """The newest ``key`` of ``kind`` as a number, None where there is none."""
        value = self.newest.get(kind, {}).get(key)
        return float(value) if isinstance(value, int | float) else None

    @property
    def synthesized_per_s(self) -> float | None:
        """Images synthesized per second over the last minute; None before two batches."""
        seconds = np.array([number(record.get("time_s")) for record in self._batches])
        images = np.array([number(record.get("num_images")) for record in self._batches])
        _, per_s = rates(seconds, images, num_spans=1)
        return float(per_s[0]) if len(per_s) else None

    @property
    def steps_per_s(self) -> float | None:
        """Pace over the last two minutes in which the step moved; None before two such records."""
        if len(self._pace) < 2 or self._pace[-1][0] <= self._pace[0][0]:
            return None
        (first_s, first), (last_s, last) = self._pace[0], self._pace[-1]
        return (last - first) / (last_s - first_s)

    @property
    def time_left_s(self) -> float | None:
        pace = self.steps_per_s
        if self.total_steps is None or pace is None:
            return None
        return max(0, self.total_steps - self.step) / pace

    def _advance(self, step: int, time_s: float) -> None:
        if step <= self.step and len(self._pace) > 1:
            return
        if step <= self.step:
            self._pace.clear()  # still before the first update: the pace counts from its start, without the warm-up
        self.step = max(step, self.step)
        self._pace.append((time_s, self.step))
        while len(self._pace) > 2 and self._pace[0][0] < time_s - _PACE_WINDOW_S:
            self._pace.popleft()

    def _take_batch(self, record: Record) -> None:
        """The generators' waits are shares of the time that the last minute's batches took, including waits."""
        self._batches.append(record)
        oldest_s = number(record.get("time_s")) - _SYNTHESIS_WINDOW_S
        while len(self._batches) > 2 and number(self._batches[0].get("time_s")) < oldest_s:
            self._batches.popleft()
        waited = _waited(self._batches)
        total_s = sum(number(batch.get("seconds")) for batch in self._batches) + sum(waited.values())
        if total_s > 0:
            self.wait_shares |= {cause: seconds / total_s for cause, seconds in waited.items()}

    def _take_student_waits(self, record: Record) -> None:
        """Shares of the time since the student's last throughput record."""
        student = student_of(record, self.students)
        before = self.students.get(student, {}).get("throughput", {})
        interval_s = number(record.get("time_s")) - number(before.get("time_s"))
        if interval_s <= 0:
            return
        shares = self._student_shares.setdefault(student, {})
        for cause, seconds in _waited([record]).items():
            shares[cause] = min(1.0, seconds / interval_s)
            self.wait_shares[cause] = max(each.get(cause, 0.0) for each in self._student_shares.values())


def _waited(records: Iterable[Record]) -> dict[str, float]:
    """Seconds waited in all ``records`` by cause, such as ``student_wait_data``."""
    waits: dict[str, float] = {}
    for record in records:
        for key, seconds in waited_s(record["kind"], record).items():
            cause = key.removesuffix("_s")
            waits[cause] = waits.get(cause, 0.0) + seconds
    return waits


def plain_line(state: ProgressState) -> str:
    """One compact line of what is known so far."""
    detailed = state.stage_detail and state.step == 0 and not state.newest.keys().isdisjoint(("few_shot", "preparation"))
    stage = f"{state.stage} ({state.stage_detail})" if detailed else state.stage
    parts = [f"[{format_duration(state.time_s)}]", stage, _steps(state)]
    if state.time_left_s is not None:
        parts.append(f"{format_duration(state.time_left_s)} left")
    pace = _images_per_s(state)
    if any(per_s is not None for per_s in pace.values()):
        parts.append(" ".join(["images/s", *(f"{name} {format_rate(per_s)}" for name, per_s in pace.items())]))
    parts.append(_buffer(state))
    parts.append(_losses(state))
    if "evaluation" in state.newest:
        parts.append(f"{state.metric_label} {_evaluation(state)}")
    waits = _waits(state)
    parts.append(f"waits {waits}" if waits else "")
    parts.append(f"restarts {state.totals.restarts}" if state.totals.restarts else "")
    return " | ".join(p for p in parts if p)


def table_rows(state: ProgressState) -> list[tuple[str, str]]:
    """(label, value) rows of the live table. The labels do not change during a run, so that nothing jumps."""
    rows = [
        ("stage", f"{state.stage}: {state.stage_detail}" if state.stage_detail else state.stage),
        ("student", f"{_bar(state)}{_steps(state)}"),
        ("time", f"{format_duration(state.time_s)} elapsed, {format_duration(state.time_left_s)} left"),
        ("images/s", ", ".join(f"{format_rate(per_s)} {name}" for name, per_s in _images_per_s(state).items())),
        ("buffer", _buffer(state).removeprefix("buffer ") or "empty"),
        ("losses", _losses(state) or "–"),
        (state.metric_label, _evaluation(state) or "–"),
        ("waits", _waits(state) or "none"),
        ("restarts", str(state.totals.restarts)),
    ]
    if state.last_event:
        rows.append(("last event", state.last_event))
    return rows


def _steps(state: ProgressState) -> str:
    if state.total_steps is None:
        return f"step {state.step:,}"
    share = f" ({format_percent(state.step / state.total_steps, 0)})" if state.total_steps else ""
    return f"step {state.step:,}/{state.total_steps:,}{share}"


def _bar(state: ProgressState) -> str:
    if not state.total_steps:
        return ""
    full = min(_BAR_WIDTH, round(_BAR_WIDTH * state.step / state.total_steps))
    return "━" * full + "╌" * (_BAR_WIDTH - full) + " "


def _images_per_s(state: ProgressState) -> dict[str, float | None]:
    """Images per second, synthesized and distilled."""
    synthesized, distilled = find("synthesis", "num_images"), find("throughput", "distilled_per_s")
    return {synthesized.name: state.synthesized_per_s, distilled.name: state.total(distilled.kind, distilled.key)}


def _buffer(state: ProgressState) -> str:
    size, capacity, fill = (state.value("replay", key) for key in ("size", "capacity", "fill"))
    if size is None:
        return ""
    text = f"buffer {size:,.0f}"
    if capacity is not None:
        text += f"/{capacity:,.0f}"
    return text if fill is None else f"{text} ({format_percent(fill, 0)})"


def _losses(state: ProgressState) -> str:
    distillation, synthesis = find("distillation", "kd_loss"), find("synthesis", "loss")
    values = {
        f"{_prefix(state, student)}{distillation.name}": value
        for student, value in state.of_students(distillation.kind, distillation.key).items()
    }
    value = state.value(synthesis.kind, synthesis.key)
    if value is not None:
        values[synthesis.name] = value
    return " ".join(f"{name} {value:.4g}" for name, value in values.items())


def _prefix(state: ProgressState, student: str) -> str:
    """A student's name before its figures, where there is more than one student."""
    return f"{student} " if len(state.students) > 1 else ""


def _evaluation(state: ProgressState) -> str:
    figures = [find("evaluation", key) for key in ("metric_last", "metric_ema")]
    texts = []
    for student in state.students:
        values = [(metric.name, state.of_students(metric.kind, metric.key).get(student)) for metric in figures]
        parts = [f"{name} {format_percent(value)}" for name, value in values if value is not None]
        if parts:
            texts.append(_prefix(state, student) + " ".join(parts))
    return ", ".join(texts)


def _waits(state: ProgressState) -> str:
    """``student 1% (data 1%) generator 20% (limiter 15%, weights 5%)``; sides that do not wait are left out."""
    texts = []
    for side, kind in (("student", "throughput"), ("generator", "synthesis")):
        causes = {metric.name: state.wait_shares.get(metric.key.removesuffix("_s"), 0.0) for metric in waits_of(kind)}
        causes = {name: share for name, share in causes.items() if share >= _LEAST_SHARE}
        if causes:
            listed = ", ".join(f"{name} {format_percent(share, 0)}" for name, share in causes.items())
            texts.append(f"{side} {format_percent(min(1.0, sum(causes.values())), 0)} ({listed})")
    return " ".join(texts)
