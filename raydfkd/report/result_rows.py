"""A result in words: formatted numbers and the rows of the outcome table, for the report, comparisons and the terminal."""

from __future__ import annotations

import math
from typing import Any

MISSING = "–"
"""What stands where a figure is not known."""


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


def format_ratio(smaller: float | None, larger: float | None) -> str:
    """How many times smaller: ``3.9x``."""
    if not smaller or not larger:
        return MISSING
    return f"{larger / smaller:.1f}×"


def part(outcome: dict[str, Any], owner: str, key: str) -> Any:
    """``outcome[owner][key]``, None where either is missing."""
    inner = outcome.get(owner)
    return inner.get(key) if isinstance(inner, dict) else None


def metric_label(outcome: dict[str, Any]) -> str:
    """``accuracy`` or ``mIoU``."""
    return "mIoU" if outcome.get("metric_name") == "miou" else "accuracy"


def rate(outcome: dict[str, Any], images_key: str) -> float | None:
    """Images of ``images_key`` a second of the whole run, or None."""
    images, seconds = outcome.get(images_key), outcome.get("end_to_end_s")
    return images / seconds if images is not None and seconds else None


def gap_to_teacher(outcome: dict[str, Any]) -> str:
    """Percentage points by which the last student is under (-) or over (+) its teacher."""
    teacher, student = part(outcome, "teacher", "metric"), part(outcome, "student", "metric_last")
    if teacher is None or student is None or not math.isfinite(student - teacher):
        return MISSING
    return f"{100 * (student - teacher):+.2f} points".replace("-", "−")


def outcome_rows(outcome: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, value) rows of a result, or of an unfinished run's outcome so far; rows without a value are left out."""
    label = metric_label(outcome)
    teacher_params, student_params = part(outcome, "teacher", "params"), part(outcome, "student", "params")
    sha = part(outcome, "teacher", "sha256")
    rows = [
        ("method", _text(outcome.get("method"))),
        ("teacher", _text(part(outcome, "teacher", "model"))),
        ("student", _text(part(outcome, "student", "model"))),
        (f"teacher {label}", format_percent(part(outcome, "teacher", "metric"))),
        (f"student {label}, last", format_percent(part(outcome, "student", "metric_last"))),
        (f"student {label}, EMA", format_percent(part(outcome, "student", "metric_ema"))),
        ("last student against teacher", gap_to_teacher(outcome)),
        ("agreement with the teacher", format_percent(part(outcome, "student", "agreement"))),
        ("teacher parameters", format_count(teacher_params)),
        ("student parameters", format_count(student_params)),
        ("times smaller", format_ratio(student_params, teacher_params)),
        ("end to end", format_duration(outcome.get("end_to_end_s"))),
        ("time in synthesis", format_duration(outcome.get("synthesis_s"))),
        ("time in distillation", format_duration(outcome.get("distillation_s"))),
        ("student steps", _whole(outcome.get("student_steps"))),
        ("images synthesized", _whole(outcome.get("images_synthesized"))),
        ("images distilled", _whole(outcome.get("images_distilled"))),
        ("images/s made", format_rate(rate(outcome, "images_synthesized"))),
        ("images/s eaten", format_rate(rate(outcome, "images_distilled"))),
        ("class entropy of the buffer", _decimal(outcome.get("class_entropy"))),
        ("student waits", format_percent(outcome.get("student_wait_fraction"))),
        ("generators wait", format_percent(outcome.get("generator_wait_fraction"))),
        ("restarts", _whole(outcome.get("restarts"))),
        ("seed", _text(outcome.get("seed"))),
        ("schedule", _text(outcome.get("schedule"))),
        ("runner", _text(outcome.get("runner"))),
        ("device", _text(outcome.get("device"))),
        ("teacher sha256", f"{sha[:16]}…" if isinstance(sha, str) and len(sha) > 16 else _text(sha)),
    ]
    return [(name, value) for name, value in rows if value != MISSING]


def student_headers(outcome: dict[str, Any]) -> tuple[str, ...]:
    """Of :func:`student_rows`."""
    label = metric_label(outcome)
    return ("student", "model", "objective", f"{label}, last", f"{label}, EMA", "agreement", "parameters", "images distilled")


def student_rows(outcome: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row a student, the first one's first."""
    students = outcome.get("students")
    return [
        (
            name,
            _text(student.get("model")),
            _text(student.get("objective")),
            *(format_percent(student.get(key)) for key in ("metric_last", "metric_ema", "agreement")),
            format_count(student.get("params")),
            _whole(student.get("images_distilled")),
        )
        for name, student in (students if isinstance(students, dict) else {}).items()
    ]


def _text(value: Any) -> str:
    return MISSING if value is None or value == "" else str(value)


def _whole(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def _decimal(value: float | None) -> str:
    return MISSING if value is None or not math.isfinite(value) else f"{value:.3f}"
