"""A result as text: formatted numbers and the rows of the outcome table, for the report, comparisons and the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from raydfkd.metrics import Metric, find, of_kind

MISSING = "–"
"""Shown in place of an unknown figure."""


def format_duration(seconds: float | None) -> str:
    """``0.84 s``, ``43 s``, ``12 min 05 s``, ``3 h 07 min``."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def format_percent(fraction: float | None, digits: int = 2) -> str:
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    return f"{100 * fraction:.{digits}f}%"


def format_count(number: float | None) -> str:
    """Whole numbers in full up to 99,999, then ``691 k``, ``12.3 M``, ``1.2 G``."""
    if number is None or not math.isfinite(number):
        return MISSING
    if abs(number) < 100_000:
        return f"{number:,.0f}"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= 0.9995 * size:
            scaled = number / size
            return f"{scaled:.{0 if abs(scaled) >= 99.95 else 1}f} {unit}"
    raise AssertionError("numbers from 100,000 on have a unit")


def format_rate(per_s: float | None) -> str:
    if per_s is None or not math.isfinite(per_s):
        return MISSING
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.1f}"


def part(outcome: dict[str, Any], owner: str, key: str) -> Any:
    """``outcome[owner][key]``, None where either is missing."""
    inner = outcome.get(owner)
    return inner.get(key) if isinstance(inner, dict) else None


def metric_label(outcome: dict[str, Any]) -> str:
    """Name of the run's figure of merit, as its task gives it."""
    return str(outcome.get("metric_label") or "accuracy")


def result_label(outcome: dict[str, Any], metric: Metric, short: bool = False) -> str:
    """What a metric of the result is called, with the name of the run's figure of merit."""
    return (metric.name if short else metric.label).replace("accuracy", metric_label(outcome))


def result_text(outcome: dict[str, Any], metric: Metric) -> str:
    """A metric of the result, formatted by its unit; ``MISSING`` where it is not known."""
    value = _DERIVED[metric.key](outcome) if metric.key in _DERIVED else _value(outcome, metric.key)
    return _FORMATS.get(metric.unit, _whole)(value) if isinstance(value, int | float) else MISSING


def outcome_rows(outcome: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, value) rows of a result, or of what is known of an unfinished run; rows without a value are left out."""
    rows = [(label, _text(_value(outcome, key))) for label, key in _NETWORKS]
    rows += [(result_label(outcome, metric), result_text(outcome, metric)) for metric in of_kind("result")]
    rows += [(key, _text(outcome.get(key))) for key in ("seed", "schedule", "runner", "device")]
    rows.append(("row of a paper", _text(part(outcome, "reproduces", "title"))))
    sha = part(outcome, "teacher", "sha256")
    rows.append(("teacher sha256", f"{sha[:16]}…" if isinstance(sha, str) and len(sha) > 16 else _text(sha)))
    return [(name, value) for name, value in rows if value != MISSING]


def student_headers(outcome: dict[str, Any]) -> tuple[str, ...]:
    """The headers of :func:`student_rows`."""
    figures = (result_label(outcome, metric, short=True) for metric in _student_metrics())
    return ("student", "model", "objective", *figures)


def student_rows(outcome: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per student, the first student first."""
    students = outcome.get("students")
    return [
        (
            name,
            _text(student.get("model")),
            _text(student.get("objective")),
            *(result_text({**student, "student": student}, metric) for metric in _student_metrics()),
        )
        for name, student in (students if isinstance(students, dict) else {}).items()
    ]


def _student_metrics() -> list[Metric]:
    """The metrics of the result that each student has."""
    return [*(metric for metric in of_kind("result") if metric.key.startswith("student.")), find("result", "images_distilled")]


def _value(outcome: dict[str, Any], key: str) -> Any:
    owner, _, inner = key.rpartition(".")
    return part(outcome, owner, inner) if owner else outcome.get(inner)


def _text(value: Any) -> str:
    return MISSING if value is None or value == "" else str(value)


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _decimal(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else MISSING


def _points(value: float) -> str:
    return f"{value:+.2f} points".replace("-", "−") if math.isfinite(value) else MISSING


def _times(value: float) -> str:
    return f"{value:.1f}×"


def _points_to_teacher(outcome: dict[str, Any]) -> float | None:
    """Percentage points by which the last student is under (-) or over (+) its teacher."""
    teacher, student = part(outcome, "teacher", "metric"), part(outcome, "student", "metric_last")
    return None if teacher is None or student is None else 100 * (student - teacher)


def _size_ratio(outcome: dict[str, Any]) -> float | None:
    teacher, student = part(outcome, "teacher", "params"), part(outcome, "student", "params")
    return teacher / student if teacher and student else None


def _per_s(key: str) -> Callable[[dict[str, Any]], float | None]:
    """Images per second over the whole run."""

    def rate(outcome: dict[str, Any]) -> float | None:
        images, seconds = outcome.get(key), outcome.get("end_to_end_s")
        return images / seconds if images is not None and seconds else None

    return rate


_NETWORKS = (("method", "method"), ("teacher", "teacher.model"), ("student", "student.model"))
_DERIVED: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "points_to_teacher": _points_to_teacher,
    "size_ratio": _size_ratio,
    "images_synthesized_per_s": _per_s("images_synthesized"),
    "images_distilled_per_s": _per_s("images_distilled"),
}
"""By key of what is computed from other values of the result."""
_FORMATS: dict[str, Callable[[float], str]] = {
    "fraction": format_percent,
    "ratio": _decimal,
    "s": format_duration,
    "parameters": format_count,
    "images/s": format_rate,
    "points": _points,
    "times": _times,
}
"""By unit; whole numbers otherwise."""
