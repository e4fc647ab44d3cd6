"""How long a run has trained by its records, and where its budget or a collapse ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydfkd.bench.budget_watch import BudgetWatch, RunEnded, TrainingClock
from raydfkd.evaluation.collapse import BATCHES
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.run.recorder import Watcher
from raydfkd.run_dir import RunDir

RECORDS: list[dict[str, Any]] = [
    {"kind": "event", "time_s": 1.0, "step": 0, "message": "warning: something"},
    {"kind": "synthesis", "time_s": 5.0, "step": 0, "seconds": 2.0},  # built for 3 seconds
    {"kind": "throughput", "time_s": 9.0, "step": 20},
    {"kind": "evaluation", "time_s": 15.0, "step": 20, "student": "student", "agreement": 0.9},
    {"kind": "throughput", "time_s": 16.0, "step": 40},
]


def numbered(record: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {"generator_id": "images-0", **record, **values}


def test_building_and_measuring_do_not_count() -> None:
    clock = TrainingClock()
    assert [clock.at(record) for record in RECORDS] == [1.0, 2.0, 6.0, 6.0, 7.0]


def test_what_lies_between_two_starts_does_not_count_either() -> None:
    clock = TrainingClock()
    resumed = [
        {"kind": "event", "time_s": 20.0, "step": 0, "message": "resumed from step-00000020"},
        {"kind": "synthesis", "time_s": 26.0, "step": 20, "seconds": 1.5},
    ]
    assert [clock.at(record) for record in [*RECORDS, *resumed]][-1] == pytest.approx(8.5)


def test_the_run_ends_at_the_first_record_past_its_budget(base: ExperimentConfig, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    display = Watcher()
    display.update = seen.append  # type: ignore[method-assign]
    watch = BudgetWatch(base, 6.5, display, RunDir(tmp_path))
    for record in RECORDS[:-1]:
        watch.update(numbered(record))
    with pytest.raises(RunEnded, match="the budget was spent at 1% of the schedule") as ended:
        watch.update(numbered(RECORDS[-1]))
    assert ended.value.end == "budget"
    assert len(seen) == len(RECORDS), "what ends the run is shown too"


def test_a_run_that_is_at_its_end_is_not_cut_off(base: ExperimentConfig, tmp_path: Path) -> None:
    watch = BudgetWatch(base, 6.5, Watcher(), RunDir(tmp_path))
    for record in RECORDS[:-1]:
        watch.update(numbered(record))
    watch.update(numbered(RECORDS[-1], step=base.schedule.total_steps))


def test_images_of_few_classes_and_a_lost_student_end_the_run(base: ExperimentConfig, tmp_path: Path) -> None:
    few = {"kind": "synthesis", "time_s": 1.0, "step": 20, "seconds": 0.1, "batch_class_entropy": 0.1, "batch_repeated": 0.0}
    watch = BudgetWatch(base, None, Watcher(), RunDir(tmp_path))
    for _ in range(2 * BATCHES):
        watch.update(numbered(few))  # a generator may begin so
    few["step"] = base.schedule.total_steps // 2
    for _ in range(BATCHES - 1):
        watch.update(numbered(few))
    with pytest.raises(RunEnded, match="collapses onto few classes") as ended:
        watch.update(numbered(few))
    assert ended.value.end == "collapsed"
    watch = BudgetWatch(base, None, Watcher(), RunDir(tmp_path))
    measured = {"kind": "evaluation", "time_s": 1.0, "student": "student"}
    watch.update({**measured, "step": 200, "agreement": 0.9})
    with pytest.raises(RunEnded, match=r"fallen from 90\.0% to 30\.0%"):
        watch.update({**measured, "step": 400, "agreement": 0.3})
