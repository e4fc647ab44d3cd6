"""Kill -9 in turn: a generator, the replay actor, a student worker. The run completes, and says so in a line each."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_experiment import BATCH_SIZE, GATED, LiveRun, events, experiment

from raydfkd.testing.waiting import wait_until

ROUNDS = 30


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_run_comes_through_the_death_of_each_of_its_parts(
    teacher: Path, tmp_path: Path, gate: Callable[[float], None], no_actor_left: None
) -> None:
    tree = experiment(
        teacher,
        student=GATED,
        schedule={"rounds": ROUNDS},
        replay={"synthetic": {"capacity": 4096, "sampler": {"kind": "prioritized"}}},
        runtime={"snapshot_period_s": 0.3, "checkpoint_period_rounds": 5},
    )
    gate(22)
    live = LiveRun(tree, tmp_path / "run")

    live.wait_for_step(21)
    before = live.ask("replay", "stats")[1]["inserts"]
    gate(54)
    kill(live.ask("pool", "pids")["inversion-0"])
    wait_until(lambda: len(events(live.run.path)) == 1, 300, "the generator was not restarted")
    assert live.ask("replay", "stats")[1]["inserts"] >= before, "delivered images stay"

    live.wait_for_step(53)
    saved = live.ask("replay", "stats")[1]["inserts"]
    live.wait_for_snapshot()
    gate(90)
    kill(live.ask("replay", "pid"))
    wait_until(lambda: len(events(live.run.path)) == 2, 300, "the replay actor was not restarted")

    live.wait_for_step(89)
    gate(float("inf"))
    kill(live.ask("coordinator", "student_pids")[0])
    result = live.result(300)

    lines = events(live.run.path)
    assert len(lines) == 3
    assert lines[0].startswith("generator inversion-0 died and was restarted from its ")
    assert lines[1].startswith("replay actor restarted from its snapshot with ")
    assert int(lines[1].split()[-2]) >= saved, "no more is lost than a snapshot period's images"
    assert lines[2] in [f"student workers were restarted from step {step}" for step in (80, 100)]
    assert result["restarts"] == 3
    assert result["student_steps"] == 4 * ROUNDS
    assert result["images_synthesized"] == (4 + ROUNDS) * BATCH_SIZE
