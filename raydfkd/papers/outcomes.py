"""Our figures of a table beside the paper's, as plain data and as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from raydfkd.papers.rows import Row
from raydfkd.run_dir import write_atomically

HEADERS = (
    "row",
    "runs",
    "ours",
    "gap to our teacher",
    "paper",
    "gap to its teacher",
    "end to end",
    "synthesis and distillation",
    "paper's hours",
)
MISSING = "–"


def outcome_of(row: Row, results: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """What is known of a row: ours, the mean and the sample standard deviation over its finished runs, and the paper's.

    Accuracies are in percent, gaps in points (positive: the student is behind its teacher), times in hours; None: not known.

    Args:
        results: result.json's contents, in place of those of the row's own runs.
    """
    cell, table = row.cell, row.cell.table
    found = list(row.results() if results is None else results)
    teachers = [100 * r["teacher"]["metric"] for r in found if _part(r, "teacher", "metric") is not None]
    ours = [value for r in found if (value := _measured(r, table.metric)) is not None]
    of_merit = all(table.metric == _merit(result) for result in found)
    paper, paper_teacher = cell.figure(table.metric), cell.figure("teacher")
    agreements = [100 * r["student"]["agreement"] for r in found if _part(r, "student", "agreement") is not None]
    return {
        "row": row.name,
        "title": ", ".join(cell.title((axis,)) for axis in cell.members),
        "scale": row.scale,
        "metric": table.metric,
        "runs": len(found),
        "seeds": [r.get("seed") for r in found],
        "ours": fmean(ours) if ours else None,
        "spread": stdev(ours) if len(ours) > 1 else None,
        "agreement": fmean(agreements) if agreements else None,
        "teacher": fmean(teachers) if teachers else None,
        "gap": fmean(teachers) - fmean(ours) if teachers and ours and of_merit else None,
        "found": cell.figure(table.metric, table.found),
        "paper": paper,
        "paper_teacher": paper_teacher,
        "paper_gap": None if paper is None or paper_teacher is None else paper_teacher - paper,
        "hours": _hours(found, "end_to_end_s"),
        "working_hours": _hours(found, "synthesis_s", "distillation_s"),
        "paper_hours": cell.figure("hours"),
        "hardware": sorted({str(r["device"]) for r in found if r.get("device")}),
        "commits": sorted({str(r["commit"]) for r in found if r.get("commit")}),
        "teachers": sorted({str(_part(r, "teacher", "sha256")) for r in found if _part(r, "teacher", "sha256")}),
    }


def _merit(result: Mapping[str, Any]) -> str:
    """The name of a run's figure of merit."""
    return str(result.get("metric_name") or "accuracy")


def _measured(result: Mapping[str, Any], metric: str) -> float | None:
    if metric == _merit(result):
        value = _part(result, "student", "metric_last")
        return None if value is None else 100 * float(value)
    value = result.get(metric)
    return None if value is None else float(value)


def _part(result: Mapping[str, Any], owner: str, key: str) -> Any:
    inner = result.get(owner)
    return inner.get(key) if isinstance(inner, dict) else None


def _hours(results: Sequence[Mapping[str, Any]], *keys: str) -> float | None:
    sums = [sum(float(r[key]) for key in keys) / 3600 for r in results if all(r.get(key) is not None for key in keys)]
    return fmean(sums) if sums else None


def text_row(outcome: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts under ``HEADERS``."""
    ours = _number(outcome["ours"])
    if outcome["spread"] is not None:
        ours += f" ± {outcome['spread']:.2f}"
    if outcome["ours"] is None and outcome["agreement"] is not None:
        ours = f"agreement {outcome['agreement']:.2f}"
    if outcome["ours"] is None and outcome["agreement"] is None and outcome["found"] is not None:
        ours = f"{outcome['found']:.2f} (recorded)"
    if outcome["scale"] < 1 and outcome["runs"]:
        ours += f" (scale {outcome['scale']:g})"
    return (
        outcome["row"],
        str(outcome["runs"]),
        ours,
        _number(outcome["gap"]),
        _number(outcome["paper"]),
        _number(outcome["paper_gap"]),
        _time(outcome["hours"]),
        _time(outcome["working_hours"]),
        _number(outcome["paper_hours"]),
    )


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _time(hours: float | None) -> str:
    if hours is None:
        return MISSING
    return f"{60 * hours:.1f} min" if hours < 1 else f"{hours:.2f} h"


def write_json(path: Path, paper: str, table: str, outcomes: Sequence[Mapping[str, Any]]) -> Path:
    """Writes the outcomes as one JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"paper": paper, "table": table, "rows": list(outcomes)}, indent=1) + "\n")
    return path
