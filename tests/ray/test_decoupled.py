"""Generators and student workers at their own speeds, with requests in flight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_experiment import BATCH_SIZE, distil, experiment

from raydfkd.run_dir import RunDir

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_actor_left")]

RATIO, ERROR_BUFFER = 4.0, 256.0


def decoupled(teacher: Path, rounds: int) -> dict[str, Any]:
    return experiment(
        teacher,
        source={"num_generators": 2},
        schedule={
            "mode": "decoupled",
            "rounds": rounds,
            "samples_per_insert": RATIO,
            "error_buffer": ERROR_BUFFER,
            "prefetch": 2,
            "batches_per_request": 2,
            "max_staleness_rounds": 2,
        },
        replay={"synthetic": {"capacity": 8192, "sampler": {"kind": "prioritized"}}},
    )


def test_the_counts_of_a_decoupled_run_add_up(teacher: Path, tmp_path: Path) -> None:
    rounds = 20
    result = distil(decoupled(teacher, rounds), tmp_path / "run")
    run = RunDir(tmp_path / "run")
    drawn, made = rounds * 4 * BATCH_SIZE, result["images_synthesized"]
    assert (result["student_steps"], result["images_distilled"]) == (rounds * 4, drawn)
    warmup = 4 * BATCH_SIZE
    assert abs(RATIO * (made - warmup) - drawn) <= ERROR_BUFFER + RATIO * BATCH_SIZE
    records = list(run.metrics("synthesis"))
    assert 0 <= sum(record["num_images"] for record in records) - made <= 4 * BATCH_SIZE, "after the last checkpoint few come"
    assert {record["generator_id"] for record in records} == {"inversion-0", "inversion-1"}
    last = list(run.metrics("replay"))[-1]
    assert last["inserts"] >= made
    assert last["samples"] == drawn
    assert 0 <= last["staleness_rounds"] <= rounds
    assert result["restarts"] == 0
    for side in ("student_wait_fraction", "generator_wait_fraction"):
        assert 0 <= result[side] < 1
    starting_s = records[0]["time_s"]
    waited_s = sum(record["generator_wait_limiter_s"] for record in records)
    assert waited_s <= 2 * (result["end_to_end_s"] - starting_s), "two generators cannot wait longer than twice the run"
