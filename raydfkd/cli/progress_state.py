"""What is known of a running experiment from its metrics records, and that in words. No terminal in here."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from raydfkd.report.result_rows import format_duration, format_percent, format_rate

_RATE_WINDOW_S = 120.0
_MADE_WINDOW_S = 60.0
_KINDS = ("preparation", "synthesis", "distillation", "replay", "throughput", "evaluation", "event")
_STUDENT_KINDS = ("distillation", "throughput", "evaluation")
_BAR_WIDTH = 24


@dataclass
class ProgressState:
    """The newest value of everything that is shown. ``take`` feeds it."""

    total_steps: int | None
    metric_name: str = "accuracy"
    stage: str = "starting"
    stage_detail: str = ""
    step: int = 0
    time_s: float = 0.0
    restarts: int = 0
    last_event: str = ""
    newest: dict[str, dict[str, Any]] = field(default_factory=dict)
    students: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """By student: its newest record of each kind."""
    wait_shares: dict[str, float] = field(default_factory=dict)
    """By cause; of several students that of the one that waits most."""
    _student_shares: dict[str, dict[str, float]] = field(default_factory=dict)
    generators: set[str] = field(default_factory=set)
    _pace: deque[tuple[float, int]] = field(default_factory=deque)
    _made: deque[dict[str, Any]] = field(default_factory=deque)

    def take(self, record: dict[str, Any]) -> bool:
        """Takes one record; False if its kind is not known here."""
        kind = record.get("kind")
        if kind not in _KINDS:
            return False
        self.time_s = max(self.time_s, float(record.get("time_s", 0.0)))
        known = self.students.setdefault(self._student_of(record), {}) if kind in _STUDENT_KINDS else None
        step = int(record.get("step", 0))
        if known is not None and len(self.students) > 1:
            others = [of_one for of_one in self.students.values() if of_one is not known]
            step = min(step, *(max((int(r.get("step", 0)) for r in of_one.values()), default=0) for of_one in others))
        self._advance(step, float(record.get("time_s", 0.0)))
        if kind == "throughput":
            self._take_waits(record)
        if kind == "preparation":
            self.stage_detail = f"{record.get('generator_id')}, step {record.get('done'):,} of {record.get('total'):,}"
        if kind == "synthesis":
            self._take_made(record)
        if kind == "event":
            self.last_event = str(record.get("message", ""))
            self.restarts += bool(record.get("restart", re.search(r"\brestart", self.last_event, re.IGNORECASE)))
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

    def _student_of(self, record: dict[str, Any]) -> str:
        return str(record.get("student", next(iter(self.students), "student")))

    def value(self, kind: str, key: str) -> float | None:
        """The newest ``key`` of ``kind`` as a number, None where there is none."""
        value = self.newest.get(kind, {}).get(key)
        return float(value) if isinstance(value, int | float) else None

    @property
    def made_per_s(self) -> float | None:
        """Images made a second as the throughput records say, or else counted over the last minute's synthesis records."""
        told = self.value("throughput", "synthesized_per_s")
        if told is not None or len(self._made) < 2:
            return told
        span_s = float(self._made[-1]["time_s"]) - float(self._made[0]["time_s"])
        images = sum(float(record.get("num_images", 0)) for record in list(self._made)[1:])
        return images / span_s if span_s > 0 else None

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
        while len(self._pace) > 2 and self._pace[0][0] < time_s - _RATE_WINDOW_S:
            self._pace.popleft()

    def _take_made(self, record: dict[str, Any]) -> None:
        self.generators.add(str(record.get("generator_id")))
        self._made.append(record)
        while len(self._made) > 2 and float(self._made[0]["time_s"]) < float(record["time_s"]) - _MADE_WINDOW_S:
            self._made.popleft()
        waits = _waits_of(self._made)
        spent_s = sum(float(r.get("seconds", 0.0)) for r in self._made) + sum(waits.values())
        if waits and spent_s > 0:
            self.wait_shares |= {cause: seconds / spent_s for cause, seconds in waits.items()}

    def _take_waits(self, record: dict[str, Any]) -> None:
        """Shares of the time since the last throughput record; the generators' waits are summed over all of them."""
        student = self._student_of(record)
        before = self.students.get(student, {}).get("throughput", {})
        interval_s = float(record.get("time_s", 0.0)) - float(before.get("time_s", 0.0))
        if interval_s <= 0:
            return
        shares = self._student_shares.setdefault(student, {})
        for cause, seconds in _waits_of([record]).items():
            workers = max(1, len(self.generators)) if cause.startswith("generator") else 1
            shares[cause] = min(1.0, seconds / interval_s / workers)
            self.wait_shares[cause] = max(each.get(cause, 0.0) for each in self._student_shares.values())


def _waits_of(records: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Seconds waited in all ``records`` by cause, such as ``student_wait_data``."""
    waits: dict[str, float] = {}
    for record in records:
        for key, value in record.items():
            if "_wait_" in key and key.endswith("_s") and isinstance(value, int | float):
                cause = key.removesuffix("_s")
                waits[cause] = waits.get(cause, 0.0) + value
    return waits


def plain_line(state: ProgressState) -> str:
    """One compact line; only what is known so far stands in it."""
    stage = f"{state.stage} ({state.stage_detail})" if "preparation" in state.newest and state.step == 0 else state.stage
    parts = [f"[{format_duration(state.time_s)}]", stage, _steps(state)]
    if state.time_left_s is not None:
        parts.append(f"left {format_duration(state.time_left_s)}")
    made, eaten = state.made_per_s, state.total("throughput", "distilled_per_s")
    if made is not None or eaten is not None:
        parts.append(f"images/s made {format_rate(made)} eaten {format_rate(eaten)}")
    parts.append(_buffer(state))
    parts.append(_losses(state))
    if "evaluation" in state.newest:
        parts.append(f"{state.metric_name} {_evaluation(state)}")
    waits = _waits(state)
    parts.append(f"waits {waits}" if waits else "")
    parts.append(f"restarts {state.restarts}" if state.restarts else "")
    return " | ".join(p for p in parts if p)


def table_rows(state: ProgressState) -> list[tuple[str, str]]:
    """(label, value) rows of the live table. The rows stay the same through a run, so that nothing jumps."""
    made, eaten = state.made_per_s, state.total("throughput", "distilled_per_s")
    rows = [
        ("stage", f"{state.stage}: {state.stage_detail}" if state.stage_detail else state.stage),
        ("student", f"{_bar(state)}{_steps(state)}"),
        ("time", f"{format_duration(state.time_s)} gone, {format_duration(state.time_left_s)} left"),
        ("images/s", f"{format_rate(made)} made, {format_rate(eaten)} eaten"),
        ("buffer", _buffer(state).removeprefix("buffer ") or "empty"),
        ("losses", _losses(state) or "–"),
        (state.metric_name, _evaluation(state) or "–"),
        ("waits", _waits(state) or "none"),
        ("restarts", str(state.restarts)),
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


def _buffer(state: ProgressState) -> str:
    size, capacity = state.value("replay", "size"), state.value("replay", "capacity")
    if size is None:
        return ""
    text = f"buffer {size:,.0f}"
    if capacity:
        text += f"/{capacity:,.0f} ({format_percent(size / capacity, 0)})"
    return text


def _losses(state: ProgressState) -> str:
    synthesis = state.value("synthesis", "loss")
    parts = [f"{_whose(state, name)}kd_loss {kd:.4g}" for name, kd in state.of_students("distillation", "kd_loss").items()]
    parts.append(f"synthesis_loss {synthesis:.4g}" if synthesis is not None else "")
    return " ".join(p for p in parts if p)


def _whose(state: ProgressState, student: str) -> str:
    """A student's name before its figures, where there is more than one."""
    return f"{student} " if len(state.students) > 1 else ""


def _evaluation(state: ProgressState) -> str:
    last, ema = state.of_students("evaluation", "metric_last"), state.of_students("evaluation", "metric_ema")
    told = []
    for name in state.students:
        parts = [
            f"last {format_percent(last[name])}" if name in last else "",
            f"EMA {format_percent(ema[name])}" if name in ema else "",
        ]
        if any(parts):
            told.append(_whose(state, name) + " ".join(p for p in parts if p))
    return ", ".join(told)


def _waits(state: ProgressState) -> str:
    """``student 1% (data 1%) generator 20% (limiter 15%, weights 5%)``; who does not wait is left out."""
    told = []
    for who in ("student", "generator"):
        causes = {k.removeprefix(f"{who}_wait_"): v for k, v in state.wait_shares.items() if k.startswith(f"{who}_wait_")}
        causes = {cause: share for cause, share in causes.items() if share >= 0.005}
        if causes:
            listed = ", ".join(f"{cause} {format_percent(share, 0)}" for cause, share in causes.items())
            told.append(f"{who} {format_percent(min(1.0, sum(causes.values())), 0)} ({listed})")
    return " ".join(told)
