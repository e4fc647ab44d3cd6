"""A run on a simulated cluster whose nodes go and come. A script: ``python simulated_cluster.py STORY DIR``.

It has a Ray of its own (own session folder, own ports) in a process of its own, since a process has one Ray at most and the
tests share another. It ends with a traceback where something is not as it should be.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from tiny_experiment import BATCH_SIZE, GATED, LiveRun, distil, events, experiment, save_teacher

from raydfkd.errors import RunFailedError
from raydfkd.run_dir import write_atomically
from raydfkd.runtime.ray_session import NAMESPACE
from raydfkd.testing.faulty_networks import GATE
from raydfkd.testing.waiting import wait_until
from raydfkd.testing.witness import FOLDER, Witnessed

SYSTEM = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
    "enable_worker_prestart": False,
    "prestart_worker_first_driver": False,
}
"""Ray otherwise takes fifteen seconds to believe that a node is gone, and starts processes on each that nobody asked for."""
RATIO, ERROR_BUFFER, WARMUP = 4.0, 256.0, 4
ROUNDS, STEPS = 30, 4
PATIENCE_S = 400
"""Enough for a machine that has much else to do."""


class Site:
    """The nodes, by name; each offers one of the resource of its role (``gen-1`` of ``gen``)."""

    def __init__(self, names: list[str]) -> None:
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": SYSTEM}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: dict[str, Any] = {}
        for name in names:
            self.add(name)
        hook = {"worker_process_setup_hook": "raydfkd.testing.witness.install"}
        ray.init(self._cluster.address, namespace=NAMESPACE, runtime_env=hook, log_to_driver=False, logging_level=logging.ERROR)

    def add(self, name: str) -> None:
        self._nodes[name] = self._cluster.add_node(num_cpus=1, resources={name.partition("-")[0]: 1})

    def remove(self, name: str) -> None:
        """As a machine that loses its power."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def close(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()


def tree(teacher: Path, num_generators: int = 2, **student: Any) -> dict[str, Any]:
    """Generators, student and buffer each on nodes of their own; two generators at their own speed."""

    def on(role: str) -> dict[str, Any]:
        return {"resources": {"num_cpus": 1, "num_threads": 1, "custom": {role: 1}}}

    return experiment(
        teacher,
        source={"num_generators": num_generators, **on("gen")},
        student={**GATED, **on("student"), **student},
        schedule={
            "mode": "decoupled",
            "warmup_batches": WARMUP,
            "rounds": ROUNDS,
            "samples_per_insert": RATIO,
            "error_buffer": ERROR_BUFFER,
            "prefetch": 1,
        },
        replay={"synthetic": {"capacity": 4096, "sampler": {"kind": "prioritized"}}},
        runtime={
            "placement": {"replay": {"buffer": 1}},
            "snapshot_period_s": 0.3,
            "checkpoint_period_rounds": 5,
            "wait_timeout_s": PATIENCE_S,
        },
    )


def stop_at(step: float) -> None:
    """Before which of its steps the student stops, counted from its last start."""
    write_atomically(Path(os.environ[GATE]), str(step))


def added(path: Path, known: list[str], number: int = 1) -> list[str]:
    """The event lines since ``known``, once there are so many."""
    wait_until(
        lambda: len(events(path)) >= len(known) + number, PATIENCE_S, lambda: f"the log has {events(path)[len(known) :]}"
    )
    return events(path)[len(known) :]


def check(folder: Path, result: dict[str, Any], num_epochs: int) -> None:
    """The property: students saw a part of what was inserted, keys are unique, counts add up, the limiter was heeded."""
    told = Witnessed(folder)
    assert told.broken() == []
    assert told.num_epochs == num_epochs
    assert set(told.steps) == set(range(ROUNDS * STEPS)), "every step was taken"
    drawn, made = ROUNDS * STEPS * BATCH_SIZE, result["images_synthesized"]
    assert (result["student_steps"], result["images_distilled"]) == (ROUNDS * STEPS, drawn)
    assert abs(RATIO * (made - WARMUP * BATCH_SIZE) - drawn) <= ERROR_BUFFER + RATIO * BATCH_SIZE * 2
    assert made <= len(told.inserted)


def nodes_come_and_go(folder: Path) -> None:
    """A generator's node, the buffer's and the student's go in turn; for each another comes."""
    site = Site(["gen-1", "gen-2", "buffer-1", "student-1"])
    stop_at(22)
    live = LiveRun(tree(save_teacher(folder / "teacher.safetensors")), folder / "run")
    live.wait_for_step(21, PATIENCE_S)
    wait_until(lambda: all(live.ask("pool", "pids").values()), PATIENCE_S, "both generators run")

    site.remove("gen-2")
    (waits,) = added(live.run.path, [])
    assert waits.startswith("1 of 2 generators of inversion lack resources (1 run): each needs 1 CPU, 1 gen and no node")
    stop_at(46)
    live.wait_for_step(45, PATIENCE_S)  # One generator is enough.
    site.add("gen-3")
    (back,) = added(live.run.path, [waits])
    assert back.startswith("generator inversion-"), back
    assert " died with its node and was restarted from its " in back

    saved = live.ask("replay", "stats")[1]["inserts"]
    live.wait_for_snapshot()
    site.remove("buffer-1")
    stop_at(62)
    site.add("buffer-2")
    (restored,) = added(live.run.path, [waits, back])
    assert restored.startswith("replay actor restarted from its snapshot with ")
    assert int(restored.split()[-2]) >= saved
    live.wait_for_step(61, PATIENCE_S)

    site.remove("student-1")
    stop_at(float("inf"))
    site.add("student-2")
    result = live.result(PATIENCE_S)
    lines = events(live.run.path)
    assert lines[:3] == [waits, back, restored]
    assert lines[3:] == [f"student workers were restarted from step {step}" for step in (40, 60) if f" {step}" in lines[3]]
    assert result["restarts"] == 3
    check(Path(os.environ[FOLDER]), result, num_epochs=2)
    site.close()


def a_student_s_node_does_not_come_back(folder: Path) -> None:
    """The run ends and says whom it waited for; with a node again, its resume completes."""
    site = Site(["gen-1", "buffer-1", "student-1"])
    stop_at(30)
    settings = tree(save_teacher(folder / "teacher.safetensors"), num_generators=1)
    settings["runtime"]["wait_timeout_s"] = 30
    live = LiveRun(settings, folder / "run")
    live.wait_for_step(29, PATIENCE_S)
    wait_until(lambda: live.run.latest_checkpoint() is not None, PATIENCE_S, "no checkpoint was written")
    site.remove("student-1")
    with pytest.raises(
        RunFailedError, match=r"^the student workers could not be placed within \d+ s: 1 are required, and each needs"
    ):
        live.result(PATIENCE_S)
    assert live.run.manifest()["state"] == "failed"
    site.add("student-2")
    stop_at(float("inf"))
    result = distil(settings, folder / "run", resume=True)
    assert events(folder / "run")[-1] == "resumed from step-00000020"
    check(Path(os.environ[FOLDER]), result, num_epochs=2)
    site.close()


def a_student_worker_joins_late(folder: Path) -> None:
    """The group begins with the one node there is, and takes in another when it comes."""
    site = Site(["gen-1", "buffer-1", "student-1"])
    stop_at(30)
    elastic = {"num_workers": 2, "min_workers": 1, "resize_period_s": 1.0}
    live = LiveRun(tree(save_teacher(folder / "teacher.safetensors"), num_generators=1, **elastic), folder / "run")
    live.wait_for_step(29, PATIENCE_S)
    wait_until(lambda: live.run.latest_checkpoint() is not None, PATIENCE_S, "no checkpoint was written")
    assert len(live.ask("coordinator", "student_pids")) == 1
    site.add("student-2")
    (grown,) = added(live.run.path, [])
    assert grown == "student workers were restarted from step 20, 2 of them"
    assert len(live.ask("coordinator", "student_pids")) == 2
    stop_at(float("inf"))
    result = live.result(PATIENCE_S)
    assert events(live.run.path) == [grown]
    check(Path(os.environ[FOLDER]), result, num_epochs=1)
    site.close()


STORIES: dict[str, Callable[[Path], None]] = {
    story.__name__: story for story in (nodes_come_and_go, a_student_s_node_does_not_come_back, a_student_worker_joins_late)
}

if __name__ == "__main__":
    STORIES[sys.argv[1]](Path(sys.argv[2]))
