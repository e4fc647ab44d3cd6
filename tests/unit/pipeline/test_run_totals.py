"""Times, waits and restarts of a run from its records, over all of its sessions."""

from __future__ import annotations

import pytest

from raydfkd.pipeline.run.outcome import totals_of


def test_nothing_recorded_is_nothing_spent() -> None:
    totals = totals_of([])
    assert totals == {
        "synthesis_s": 0.0, "distillation_s": 0.0, "student_wait_fraction": 0.0, "generator_wait_fraction": 0.0, "restarts": 0,
    }  # fmt: skip


def test_sums_over_records() -> None:
    records = [
        {"kind": "synthesis", "step": 0, "seconds": 2.0, "generator_wait_limiter_s": 1.0},
        {"kind": "preparation", "step": 0, "prepare_s": 1.5},
        {"kind": "synthesis", "step": 4, "seconds": 4.0, "generator_wait_weights_s": 1.0},
        {"kind": "distillation", "step": 10, "step_s": 0.5},
        {"kind": "distillation", "step": 30, "step_s": 0.25},
        {"kind": "throughput", "step": 30, "student_wait_data_s": 0.5, "student_wait_limiter_s": 2.0},
        {"kind": "throughput", "step": 40, "student_wait_data_s": None},
        {"kind": "event", "step": 0, "message": "a", "restart": True},
        {"kind": "event", "step": 0, "message": "b"},
        {"kind": "evaluation", "step": 40, "metric_last": 0.5},
    ]
    totals = totals_of(records)
    assert totals["synthesis_s"] == 7.5
    assert totals["distillation_s"] == pytest.approx(10 * 0.5 + 20 * 0.25)
    assert totals["student_wait_fraction"] == pytest.approx(2.5 / 12.5)
    assert totals["generator_wait_fraction"] == pytest.approx(2 / 9.5)
    assert totals["restarts"] == 1
