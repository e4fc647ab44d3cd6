"""When to add or remove a generator: the side that waits shows which side is the bottleneck. Plain arithmetic on the waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raydfkd.metrics import waited_s
from raydfkd.synthesis.method import AutoscaleConfig


@dataclass(frozen=True)
class Waits:
    """Shares of the time spent waiting, in [0,1]; None if nothing was measured.

    Attributes:
        student: by the students, for images.
        generator: by a source's generators, for the rate limiter or for student weights.
    """

    student: float | None
    generator: float | None


class WaitMeter:
    """Collects the waits reported in metrics records.

    Args:
        horizon_s: records older than this are forgotten.
    """

    def __init__(self, horizon_s: float) -> None:
        self._horizon_s = horizon_s
        self._students: dict[str, deque[tuple[float, float]]] = {}
        self._generators: dict[str, deque[tuple[float, float, float]]] = {}

    def take(self, kind: str, values: Mapping[str, Any], now: float) -> None:
        """Adds a record: its kind, its values, and its arrival time in seconds."""
        if kind == "throughput":
            records = self._students.setdefault(str(values.get("student", "")), deque())
            records.append((now, sum(waited_s(kind, values).values())))
            while len(records) > 2 and records[0][0] < now - self._horizon_s:
                records.popleft()
        elif kind == "synthesis":
            made = self._generators.setdefault(str(values["generator_id"]).rpartition("-")[0], deque())
            made.append((now, sum(waited_s(kind, values).values()), float(values["seconds"])))
            while made[0][0] < now - self._horizon_s:
                made.popleft()

    def waits(self, source: str, since: float, not_before: float) -> Waits:
        """Shares over the records that arrived after ``since``; with several students, the one that waits most counts.

        A throughput record covers the time since the previous one. That one may be older than ``since``, because a starved
        student reports rarely, but not older than ``not_before``.
        """
        shares = [_student_share(list(records), since, not_before) for records in self._students.values()]
        known = [share for share in shares if share is not None]
        made = [record for record in self._generators.get(source, ()) if record[0] >= since]
        waited = sum(record[1] for record in made)
        total = waited + sum(record[2] for record in made)
        return Waits(max(known, default=None), waited / total if total > 0 else None)


def _student_share(records: list[tuple[float, float]], since: float, not_before: float) -> float | None:
    ends = [end for end in range(1, len(records)) if records[end][0] >= since and records[end - 1][0] >= not_before]
    if not ends:
        return None
    length = records[-1][0] - records[ends[0] - 1][0]
    return min(1.0, sum(waited for _, waited in records[ends[0] :]) / length) if length > 0 else None


@dataclass(frozen=True)
class Change:
    """One generator more or fewer, and the reason in words."""

    target: int
    reason: str


class AutoscalePolicy:
    """Decides for one source, one generator at a time.

    It adds one when the students wait more than ``add_above`` of their time and the generators less than ``spare`` of theirs.
    It removes one when the students wait less than half of ``add_above`` and the remaining generators would still have
    ``spare`` of their time left: n generators waiting a share w do the work of n (1 - w), which n - 1 can do with that margin
    if n (1 - w) <= (n - 1) (1 - spare). A generator added because images were short is therefore not removed because of its
    own effect, and after each change only later records count, for a whole window: this prevents oscillation.

    Args:
        config: bounds and thresholds.
        now: seconds; the window starts here.
    """

    def __init__(self, config: AutoscaleConfig, now: float) -> None:
        self._config = config
        self._changed_at = now

    @property
    def changed_at(self) -> float:
        """Earlier records belong to another number of generators."""
        return self._changed_at

    @property
    def window_s(self) -> float:
        return self._config.window_s

    def note_change(self, now: float) -> None:
        """The number of generators has changed, by this policy or by a person."""
        self._changed_at = now

    def is_due(self, now: float) -> bool:
        """Whether a decision may be made: a cool-down and a whole window after the last change."""
        return now - self._changed_at >= max(self._config.cooldown_s, self._config.window_s)

    def decide(self, target: int, num_running: int, waits: Waits) -> Change | None:
        """The change to make, if any.

        Args:
            target: generators wanted at present.
            num_running: how many of them run. While one has not started, no other is added, and it is the first to be removed.
            waits: measured over the window, after ``changed_at``.
        """
        config = self._config
        if waits.student is None:
            return None
        generator = 0.0 if waits.generator is None else waits.generator
        told = f"over {config.window_s:g} s students waited {waits.student:.0%} of their time, its generators {generator:.0%}"
        if waits.student > config.add_above and generator < config.spare and num_running == target < config.max:
            return Change(target + 1, told)
        spared = num_running < target or target * (1 - generator) <= (target - 1) * (1 - config.spare)
        if waits.student < config.add_above / 2 and spared and target > config.min:
            return Change(target - 1, f"{told}: one fewer is enough")
        return None
