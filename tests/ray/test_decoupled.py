"""Generators and student workers at their own speeds, with requests in flight."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_experiment import BATCH_SIZE, GATED, LiveRun, distil, events, experiment

from raydfkd.run_dir import RunDir
from raydfkd.testing.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_actor_left")]

RATIO, ERROR_BUFFER = 4.0, 256.0


def decoupled(teacher: Path, rounds: int, student: dict[str, Any], **runtime: float) -> dict[str, Any]:
    return experiment(
        teacher,
        source={"num_generators": 2},
        student=student,
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
        runtime=runtime,
    )


def test_the_counts_of_a_decoupled_run_add_up(teacher: Path, tmp_path: Path) -> None:
    rounds = 20
    result = distil(decoupled(teacher, rounds, {}), tmp_path / "run")
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


def test_two_workers_come_through_the_death_of_the_buffer_and_of_one_of_them(
    teacher: Path, tmp_path: Path, gate: Callable[[float], None]
) -> None:
    rounds = 40
    tree = decoupled(teacher, rounds, {"num_workers": 2, **GATED}, snapshot_period_s=0.3, checkpoint_period_rounds=10)
    gate(60)
    live = LiveRun(tree, tmp_path / "run")
    live.wait_for_step(58)
    saved = live.ask("replay", "stats")[1]["inserts"]
    live.wait_for_snapshot()
    gate(110)
    os.kill(live.ask("replay", "pid"), signal.SIGKILL)
    wait_until(lambda: len(events(live.run.path)) == 1, 300, "the replay actor was not restarted")
    live.wait_for_step(108)
    gate(float("inf"))
    os.kill(live.ask("coordinator", "student_pids")[1], signal.SIGKILL)
    result = live.result(300)
    lines = events(live.run.path)
    assert [line.split(" restarted")[0] for line in lines] == ["replay actor", "student workers were"]
    assert int(lines[0].split()[-2]) >= saved
    assert result["restarts"] == 2
    assert result["student_steps"] == rounds * 4
    assert result["images_distilled"] == rounds * 4 * BATCH_SIZE
