"""Kill -9 in turn: a generator, the replay actor, a student worker. The run completes, and says so in a line each."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tiny_experiment import BATCH_SIZE, LiveRun, events, experiment, wait_until

ROUNDS = 40
SNAPSHOT_S = 0.5


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_a_run_comes_through_the_death_of_each_of_its_parts(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    tree = experiment(
        teacher,
        schedule={"rounds": ROUNDS},
        replay={"synthetic": {"capacity": 4096, "sampler": {"kind": "prioritized"}}},
        runtime={"snapshot_period_s": SNAPSHOT_S, "checkpoint_period_rounds": 5},
    )
    live = LiveRun(tree, tmp_path / "run")

    live.wait_for_step(20)
    before = live.ask("replay", "stats")[1]["inserts"]
    kill(live.ask("pool", "pids")["inversion-0"])
    wait_until(lambda: len(events(live.run.path)) == 1, 60, "the generator was not restarted")
    assert live.ask("replay", "stats")[1]["inserts"] >= before, "delivered images stay"

    live.wait_for_step(60)
    saved = live.ask("replay", "stats")[1]["inserts"]
    time.sleep(SNAPSHOT_S + 2)
    kill(live.ask("replay", "pid"))
    wait_until(lambda: len(events(live.run.path)) == 2, 60, "the replay actor was not restarted")

    live.wait_for_step(100)
    kill(live.ask("log", "student_pids")[0])
    result = live.result(180)

    lines = events(live.run.path)
    assert len(lines) == 3
    assert lines[0].startswith("generator inversion-0 died and was restarted from its ")
    assert lines[1].startswith("replay actor restarted from its snapshot with ")
    assert int(lines[1].split()[-2]) >= saved, "no more is lost than a snapshot period's images"
    assert lines[2].startswith("student workers were restarted from step ")
    assert int(lines[2].split()[-1]) in range(80, 121, 20)
    assert result["restarts"] == 3
    assert result["student_steps"] == 4 * ROUNDS
    assert result["images_synthesized"] == (4 + ROUNDS) * BATCH_SIZE
