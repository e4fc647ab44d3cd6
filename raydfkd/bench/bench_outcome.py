"""What came of a bench's methods, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raydfkd.bench.bench_dir import BenchDir
from raydfkd.bench.budget_watch import TrainingClock
from raydfkd.pipeline.experiment.config import ExperimentConfig, load_experiment
from raydfkd.run_records import Record, RunTotals
from raydfkd.synthesis.methods import METHODS

SHARES = (0.1, 0.25, 0.5, 1.0)
"""Of the budget, at which the leading methods are named."""
LAST_BATCHES = 8
"""Batches of images that the class entropy at the end is the mean of."""
FIGURES = {
    "evaluation": ("metric_last", "metric_ema", "agreement"),
    "held_out": ("agreement_last", "agreement_ema", "agreement_last"),
}
"""By kind of record: the figure of the last weights, that of their average, and the agreement with the teacher."""


def outcome_of(folder: BenchDir) -> dict[str, Any]:
    """The bench's state, what its methods share, and each method, best first."""
    manifest = folder.manifest()
    methods = [_method(folder, entry) for entry in folder.entries()]
    methods.sort(key=lambda one: (one["last"] is None, -(one["last"] or 0.0), one["method"]))
    shared = ("state", "budget", "teacher", "teacher_metric", "metric_label", "measured_on", "student", "seed", "rule")
    return {**{key: manifest.get(key) for key in shared}, "methods": methods, "leaders": leaders(methods, manifest["budget"])}


def _method(folder: BenchDir, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Figures are those of the newest measurement, fractions in [0,1]; None: not known."""
    name = str(entry["method"])
    run = folder.run(name)
    known: dict[str, Any] = {
        "method": name,
        "title": METHODS.get(name).title if name in METHODS else name,
        "end": entry["end"],
        "reason": entry["reason"],
        "planned": entry["planned"],
        **dict.fromkeys(("last", "average", "agreement", "trained_s", "student_images", "student_steps", "total_steps")),
        **dict.fromkeys(("images_synthesized", "synthesis_s", "distillation_s", "class_entropy", "batch_size", "lr", "source")),
        "curve": [],
    }
    if entry["end"] == "skipped" or not run.config_path.is_file():
        return known
    config = load_experiment(run.config_path)
    records = list(run.metrics())
    curve = curve_of(records, config)
    totals = RunTotals.of(records)
    newest = curve[-1] if curve else {}
    steps = max((int(record["step"]) for record in records), default=0)
    source = next(iter(config.sources.values()))
    changed = source.model_dump(mode="json", exclude_defaults=True)
    return known | {
        **{key: newest.get(key) for key in ("last", "average", "agreement")},
        "trained_s": trained_s(records),
        "student_images": steps * config.student.batch_size,
        "student_steps": steps,
        "total_steps": config.schedule.total_steps,
        "images_synthesized": totals.images_synthesized,
        "synthesis_s": totals.synthesis_s,
        "distillation_s": totals.distillation_s,
        "class_entropy": _class_entropy(records),
        "batch_size": config.student.batch_size,
        "lr": config.student.optimizer.lr,
        "source": {"method": name, **changed},
        "curve": curve,
    }


def curve_of(records: Sequence[Record], config: ExperimentConfig) -> list[dict[str, float | None]]:
    """A method's student at each measurement: ``trained_s``, ``student_steps``, ``student_images``, ``last``, ``average`` and
    ``agreement``; on the labelled images if there are any, otherwise on the held-out ones."""
    kind = "evaluation" if config.evaluation is not None else "held_out"
    clock, points = TrainingClock(), []
    for record in records:
        at = clock.at(record)
        if record["kind"] == kind:
            last, average, agreement = (record.get(key) for key in FIGURES[kind])
            where = {"trained_s": at, "student_steps": record["step"]}
            where["student_images"] = record["step"] * config.student.batch_size
            points.append({**where, "last": last, "average": average, "agreement": agreement})
    return points


def trained_s(records: Sequence[Record]) -> float:
    """Seconds of training until the last record."""
    clock = TrainingClock()
    return max((clock.at(record) for record in records), default=0.0)


def _class_entropy(records: Sequence[Record]) -> float | None:
    """Mean relative entropy of the teacher's classes over the newest batches."""
    found = [float(record["batch_class_entropy"]) for record in records if "batch_class_entropy" in record]
    newest = found[-LAST_BATCHES:]
    return sum(newest) / len(newest) if newest else None


def leaders(methods: Sequence[Mapping[str, Any]], budget: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Which method is best once a share of the budget is spent: ``share``, ``method`` and ``last``, of each share at which any
    method was measured."""
    along, whole = ("student_images", budget["images"]) if budget["minutes"] is None else ("trained_s", 60 * budget["minutes"])
    found = []
    for share in SHARES:
        reached = {
            method["method"]: point["last"]
            for method in methods
            for point in method["curve"]
            if point[along] <= share * whole and point["last"] is not None
        }
        if reached:
            best = max(reached, key=lambda name: float(reached[name]))
            found.append({"share": share, "method": best, "last": reached[best]})
    return found
