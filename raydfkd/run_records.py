"""Reads metrics.jsonl, and derives what its readers share: totals, rates, and the owner of each record.

Live progress, ``raydfkd status``, the result and the report all read through :class:`RecordReader` and count with
:class:`RunTotals`, so that they agree.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd import metrics
from raydfkd.errors import RunDirError

Record = dict[str, Any]

MOST_SPANS = 60
RECORDS_PER_SPAN = 4
_UNNAMED_STUDENT = "student"


class RecordReader:
    """Reads the records of a metrics.jsonl; each call returns those added since the last one.

    A last line without a newline is still being written, or its writer was killed: it is left for the next call.

    Args:
        path: the file; it need not exist yet.
        tolerant: skip and count damaged lines instead of refusing them.

    Attributes:
        damaged: lines that were skipped.
    """

    def __init__(self, path: Path, *, tolerant: bool = False) -> None:
        self.path = path
        self.damaged = 0
        self._tolerant = tolerant
        self._offset = 0
        self._num_lines = 0

    @property
    def is_rewound(self) -> bool:
        """The file is shorter than what was read: a resumed run removed the records after its checkpoint. Start over."""
        return self.path.exists() and self.path.stat().st_size < self._offset

    def read(self) -> Iterator[Record]:
        """The new records, in the order of writing.

        Raises:
            RunDirError: a line is not a record, and the reader is not tolerant.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            lines.seek(self._offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                self._num_lines += 1
                record = self._parsed(line)
                if record is not None:
                    yield record

    def _parsed(self, line: bytes) -> Record | None:
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not {"kind", "time_s", "step"} <= record.keys():
                raise ValueError("kind, time_s or step is missing")
            return record | {"time_s": float(record["time_s"])}
        except (ValueError, TypeError) as error:
            if self._tolerant:
                self.damaged += 1
                return None
            where = f"{self.path}, line {self._num_lines}"
            raise RunDirError(f"{where} is not a metrics record ({error}): the file is damaged, delete that line") from error


def number(value: Any) -> float:
    """A field's value, 0 where it is missing or not a finite number."""
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else 0.0


def student_of(record: Record, students: Iterable[str]) -> str:
    """The student of a record; a record without a name belongs to the first student."""
    return str(record.get("student", next(iter(students), _UNNAMED_STUDENT)))


def by_owner(records: Iterable[Record], kind: str, students: Sequence[str]) -> dict[str, list[Record]]:
    """Records of one kind by the name of their student (the first student first), generator or source; those of the whole
    run under ``""``. Owners without records are left out.
    """
    owner = metrics.owner_field(kind)
    grouped: dict[str, list[Record]] = {name: [] for name in students} if owner == "student" else {}
    for record in records:
        if owner == "student":
            name = student_of(record, grouped)
        else:
            name = "" if owner is None else str(record.get(owner))
        grouped.setdefault(name, []).append(record)
    names = grouped if owner == "student" else sorted(grouped)
    return {name: grouped[name] for name in names if grouped[name]}


def rates(seconds: np.ndarray, amounts: np.ndarray, num_spans: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Amounts per second.

    Args:
        seconds: [n], ascending.
        amounts: [n], each accrued up to its time; the first one accrued before the first span.
        num_spans: equal spans of time to average over; None: chosen so that each has about four amounts, at most 60.

    Returns:
        The end [s] of each span and its amount per second [s]; empty unless there are two different times.
    """
    if len(seconds) < 2 or seconds[-1] <= seconds[0]:
        return np.empty(0), np.empty(0)
    num = num_spans or max(1, min(MOST_SPANS, len(seconds) // RECORDS_PER_SPAN))
    edges = np.linspace(seconds[0], seconds[-1], num + 1)
    sums, _ = np.histogram(seconds[1:], edges, weights=amounts[1:])
    return edges[1:], sums / np.diff(edges)


@dataclass
class RunTotals:
    """Sums over a run's records, over all of its starts, students and generators. :meth:`take` feeds it.

    Attributes:
        synthesis_s: seconds spent on synthesis and on the preparation before the first batch.
        distillation_s: seconds spent on student steps and on few-shot training.
        restarts: of actors and student groups.
        images_by_generator: images synthesized.
        images_by_student: images distilled.
        waited_s: seconds waited, by the field of each cause.
    """

    synthesis_s: float = 0.0
    distillation_s: float = 0.0
    restarts: int = 0
    images_by_generator: Counter[str] = field(default_factory=Counter)
    images_by_student: dict[str, float] = field(default_factory=dict)
    waited_s: dict[str, float] = field(default_factory=dict)
    _steps: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record]) -> RunTotals:
        totals = cls()
        for record in records:
            totals.take(record)
        return totals

    def take(self, record: Record) -> None:
        """Adds one record, in the order of writing."""
        kind = record["kind"]
        if kind == "preparation":
            self.synthesis_s += number(record.get("prepare_s"))
        elif kind == "synthesis":
            self.synthesis_s += number(record.get("seconds"))
            self.images_by_generator[str(record.get("generator_id"))] += int(number(record.get("num_images")))
        elif kind == "few_shot":
            self.distillation_s += number(record.get("few_shot_s"))
        elif kind == "distillation":
            self._take_steps(record)
        elif kind == "throughput":
            student = student_of(record, self.images_by_student)
            self.images_by_student[student] = number(record.get("images_distilled"))
        elif kind == "event":
            self.restarts += bool(record.get("restart"))
        for cause, seconds in metrics.waited_s(kind, record).items():
            self.waited_s[cause] = self.waited_s.get(cause, 0.0) + seconds

    def _take_steps(self, record: Record) -> None:
        """``step_s`` is the mean over the steps since the student's last record."""
        student, reached = student_of(record, self._steps), number(record.get("step"))
        before = self._steps.get(student, 0.0)
        self.distillation_s += number(record.get("step_s")) * max(0.0, reached - before)
        self._steps[student] = max(before, reached)

    @property
    def images_synthesized(self) -> int:
        return sum(self.images_by_generator.values())

    @property
    def images_distilled(self) -> float:
        return sum(self.images_by_student.values())

    def as_result(self) -> dict[str, Any]:
        """Times, shares of time waited and restarts, under the keys of result.json."""
        return {
            "synthesis_s": self.synthesis_s,
            "distillation_s": self.distillation_s,
            "student_wait_fraction": self._wait_share("throughput", self.distillation_s),
            "generator_wait_fraction": self._wait_share("synthesis", self.synthesis_s),
            "restarts": self.restarts,
        }

    def _wait_share(self, kind: str, worked_s: float) -> float:
        waited = sum(self.waited_s.get(metric.key, 0.0) for metric in metrics.waits_of(kind))
        return waited / (waited + worked_s) if waited + worked_s > 0 else 0.0
