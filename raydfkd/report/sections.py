"""The report's sections in order. Each is built from the run's data, or gives the reason why it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from raydfkd.report import buffer_sections, training_sections
from raydfkd.report.features import alignment_section, feature_section, mask_section
from raydfkd.report.loading import RunData, series
from raydfkd.report.page_parts import LeftOut, Part, Section, Table
from raydfkd.report.result_rows import MISSING, format_duration, outcome_rows, student_headers, student_rows
from raydfkd.report.timeline import timeline
from raydfkd.report.wait_section import waits

_MOST_EVENTS = 200


def build_parts(run: RunData) -> list[Part]:
    """Every part of the report in order, with its section or the reason why it has none; without those that are not about
    such a run."""
    parts = []
    for anchor, title, build in _BUILDERS:
        try:
            section = build(run)
            if section is not None:
                parts.append(Part(anchor, title, section))
        except LeftOut as reason:
            parts.append(Part(anchor, title, None, str(reason)))
    return parts


def _outcome(run: RunData) -> Section:
    rows = outcome_rows(run.outcome)
    if not rows:
        raise LeftOut("neither result.json nor the metrics records hold any figures yet")
    half = -(-len(rows) // 2)
    columns = [Table((), [*rows[:half]]), Table((), [*rows[half:]])]
    students = student_rows(run.outcome)
    if len(students) > 1:
        columns.append(Table(student_headers(run.outcome), students, "students"))
    lead = "" if run.result is not None else "The run has no result.json: these are its figures so far."
    notes = [] if len(students) < 2 else [f"Figures of a single student are those of the first, {students[0][0]}."]
    return Section(lead=lead, tables=columns, notes=notes)


def _events(run: RunData) -> Section:
    events = run.of_kind("event")
    if not events:
        raise LeftOut("nothing out of the ordinary was recorded")
    shown = events[-_MOST_EVENTS:]
    steps, seconds = series([r for kind in ("synthesis", "throughput") for r in run.of_kind(kind)], "step", "time_s")
    rows: list[tuple[str, ...]] = []
    for event in shown:
        # An event may be recorded without the student's step: the newest recorded one before it is shown instead.
        step = max(int(event.get("step", 0)), int(np.max(steps[seconds <= event["time_s"]], initial=0)))
        rows.append((format_duration(event["time_s"]), f"{step:,}", str(event.get("message", ""))))
    notes = [f"The last {_MOST_EVENTS} of {len(events):,} events are shown."] if len(events) > _MOST_EVENTS else []
    return Section(tables=[Table(("time", "step", "event"), rows)], notes=notes)


def _data(run: RunData) -> Section:
    read = run.manifest.get("data_splits_read")
    if read is None:
        raise LeftOut("manifest.json does not list any data that was read")
    if isinstance(read, dict):
        read = [{"data": key, "purpose": value} for key, value in read.items()]
    rows = read if isinstance(read, list) else [read]
    if not rows:
        return Section(lead="No data set was read.")
    return Section(lead="Every data split that this run read, and its purpose.", tables=[_object_table(rows)])


def _config(run: RunData) -> Section:
    if not run.config:
        raise LeftOut("there is no config.yaml")
    return Section(code=run.config)


def _machine(run: RunData) -> Section:
    versions = {"python": run.manifest.get("python")} | dict(run.manifest.get("packages") or {})
    tables = []
    for title, values in (("versions", versions), ("hardware", run.manifest.get("hardware"))):
        rows: list[tuple[str, ...]] = [row for row in _flat(values or {}) if row[1] not in ("", MISSING)]
        if rows:
            tables.append(Table((), rows, title))
    if not tables:
        raise LeftOut("manifest.json names neither versions nor hardware")
    return Section(tables=tables)


_BUILDERS: tuple[tuple[str, str, Callable[[RunData], Section | None]], ...] = (
    ("outcome", "Outcome", _outcome),
    ("metric", "Student against teacher", training_sections.metric),
    ("images", "Synthetic images by class", buffer_sections.images),
    ("masks", "Classes of pixels", mask_section.masks),
    ("evolution", "Synthetic images over the run", buffer_sections.evolution),
    ("classes", "Classes in the buffer", buffer_sections.classes),
    ("buffer", "Difficulty, priority and age", buffer_sections.buffer),
    ("features", "Features", feature_section.features),
    ("alignment", "Feature alignment", alignment_section.alignment),
    ("distillation", "Distillation", training_sections.distillation),
    ("synthesis", "Synthesis", training_sections.synthesis),
    ("throughput", "Throughput and buffer", training_sections.throughput),
    ("timeline", "Generators over time", timeline),
    ("waits", "Waits by cause", waits),
    ("events", "Events", _events),
    ("data", "Data that was read", _data),
    ("machine", "Versions and hardware", _machine),
    ("config", "Configuration", _config),
)


def _object_table(rows: Sequence[Any]) -> Table:
    objects = [row if isinstance(row, dict) else {"data": row} for row in rows]
    headers = tuple(dict.fromkeys(key for row in objects for key in row))
    return Table(tuple(h.replace("_", " ") for h in headers), [tuple(_cell(row.get(h)) for h in headers) for row in objects])


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in _flat(inner, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix or "value", _cell(value))]


def _cell(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(_cell(inner) for inner in value)
    return str(value)
