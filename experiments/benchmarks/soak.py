"""A long run whose processes are killed at random: does it complete, and does anything grow?

    python experiments/benchmarks/soak.py [--quick] [--minutes 30] [--seed 0] [--keep DIR] [--tell FILE]

A decoupled run on a local Ray, in a process of its own, with two generators and one student. Its teacher and its student sleep
for a fixed time, so that it costs little processor and may share a machine. Every 20 to 60 s this process kills (SIGKILL) a
generator, the student's worker or the replay actor, and looks how much memory the others take. All that went into the buffer
and came out of it is written down by the run's processes and compared in the end.

Prints readable lines and, last, one JSON object of the figures; fails if the run does not complete, or lost or mixed up images.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray._private.state
from live_scaling import wait_until
from rig import object_store, resident_bytes

from raydfkd.run_dir import RunDir
from raydfkd.runtime.live_run import reach
from raydfkd.runtime.ray_session import LEAN
from raydfkd.testing.faulty_networks import SLEEP_S
from raydfkd.testing.witness import FOLDER, Witnessed

BATCH_SIZE = 64
STEPS_PER_ROUND = 10
START_TIMEOUT_S = 900.0
KINDS = ("generator", "student", "replay")
LONG_LIVED = ("driver", "coordinator", "pool", "weights", "raylet", "gcs")
ASK_TIMEOUT_S = 10.0

DRIVER = """
import json, logging, sys
import ray, torch
from raydfkd.runtime.ray_session import NAMESPACE
torch.set_num_threads(1)
ray.init(address="local", num_cpus=4, namespace=NAMESPACE, include_dashboard=False, log_to_driver=False,
         logging_level=logging.ERROR, object_store_memory=200 << 20,
         runtime_env={"worker_process_setup_hook": "raydfkd.testing.witness.install"})
import raydfkd
raydfkd.distill(json.loads(sys.argv[1]), out=sys.argv[2])
"""


@dataclass(frozen=True)
class Plan:
    """How long, and how hard.

    Attributes:
        seconds: that the student's steps take without any kill.
        sleep_s: of a student's step, and of a step of synthesis.
        pauses_s: shortest and longest time between two kills.
        period_s: between two looks at the memory.
    """

    seconds: float
    sleep_s: float
    pauses_s: tuple[float, float]
    period_s: float

    @property
    def rounds(self) -> int:
        return max(1, round(self.seconds / self.sleep_s / STEPS_PER_ROUND))

    @property
    def num_steps(self) -> int:
        return self.rounds * STEPS_PER_ROUND

    @property
    def last_steps(self) -> int:
        """Of the end, which is left in peace: three seconds' worth, and what is drawn in advance."""
        return round(3.0 / self.sleep_s)


def experiment(plan: Plan) -> dict[str, Any]:
    """Grey images of 16 pixels; generators twice as fast as the ratio asks, so that the limiter is at work."""
    resources = {"num_cpus": 1, "num_threads": 1}
    networks = "raydfkd.testing.faulty_networks"
    normalization = {"mean": [0.5], "std": [0.25]}
    return {
        "task": {"num_classes": 10, "image_shape": [1, 16, 16]},
        "teacher": {"model": f"{networks}:slow_teacher", "normalization": normalization},
        "sources": {
            "inversion": {
                "method": "ssdkd", "batch_size": BATCH_SIZE, "steps_per_batch": 2, "base_channels": 8, "latent_dim": 16,
                "num_generators": 2, "resources": resources,
            }
        },
        "replay": {"synthetic": {"capacity": 2048, "sampler": {"kind": "prioritized"}}},
        "students": {"small": {"model": f"{networks}:slow_student", "batch_size": BATCH_SIZE, "resources": resources}},
        "schedule": {
            "mode": "decoupled", "warmup_batches": 4, "rounds": plan.rounds, "student_steps_per_round": STEPS_PER_ROUND,
            "samples_per_insert": 4.0, "error_buffer": 1024.0, "prefetch": 2,
        },
        "runtime": {
            "runner": "ray", "log_period_steps": 20, "checkpoint_period_rounds": 5, "snapshot_period_s": 3.0, "bf16": False,
            "device": "cpu", "wait_timeout_s": START_TIMEOUT_S, "max_restarts": 10_000,
        },
    }  # fmt: skip


@contextlib.contextmanager
def started(folder: Path, plan: Plan) -> Iterator[tuple[RunDir, subprocess.Popen[bytes]]]:
    """The run, in a process of its own that does not outlive the context."""
    (folder / "witness").mkdir()
    settings = {**LEAN, SLEEP_S: str(plan.sleep_s), FOLDER: str(folder / "witness"), "RAY_AUTH_MODE": "disabled"}
    run = RunDir(folder / "run")
    command = [sys.executable, "-c", DRIVER, json.dumps(experiment(plan)), str(run.path)]
    process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: any(run.metrics("throughput")), START_TIMEOUT_S, "the student's first steps", process)
        yield run, process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


@dataclass
class Soak:
    """What was done to the run, and what was seen of it.

    Attributes:
        killed: kills by kind.
        back_s: seconds from a kill to the next process of that kind, by kind.
        tell: file that each look is added to.
        looks: one row a look: seconds, bytes by process, object store, numbers of actors and processes.
    """

    run: RunDir
    process: subprocess.Popen[bytes]
    plan: Plan
    rng: random.Random
    tell: Path | None = None
    killed: Counter[str] = field(default_factory=Counter)
    back_s: dict[str, list[float]] = field(default_factory=dict)
    looks: list[dict[str, float]] = field(default_factory=list)
    _order: list[str] = field(default_factory=list)

    def go_on(self) -> None:
        """Kills and looks until the run is about to end."""
        with reach(self.run):
            self._services = self._pids_of_services()
            began = time.monotonic()
            kill_at = began + self.rng.uniform(*self.plan.pauses_s)
            while self._is_working():
                self._look(time.monotonic() - began)
                until = min(kill_at, time.monotonic() + self.plan.period_s)
                self._sleep_until(until)
                if time.monotonic() >= kill_at and self._is_working():
                    self._kill(self._next_kind())
                    kill_at = time.monotonic() + self.rng.uniform(*self.plan.pauses_s)

    def _is_working(self) -> bool:
        """Whether there is more to come than the last steps: its Ray ends with it, and nobody should be in it then."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the run ended with exit code {self.process.returncode}: {self.run.manifest().get('error')}")
        has_drawn, step = self._ask("replay", "progress") or (False, 0)
        return not has_drawn or step < self.plan.num_steps - self.plan.last_steps

    def _sleep_until(self, moment: float) -> None:
        while time.monotonic() < moment and self._is_working():
            time.sleep(min(1.0, self.plan.period_s))

    def _ask(self, role: str, method: str) -> Any:
        """What an actor answers, None while it cannot be asked."""
        prefix = self.run.manifest().get("actors")
        try:
            actor = ray.get_actor(f"{prefix}/{role}")
            return ray.get(getattr(actor, method).remote(), timeout=ASK_TIMEOUT_S)
        except (ValueError, ray.exceptions.RayError):
            return None

    def _pid(self, kind: str) -> int | None:
        if kind == "replay":
            return self._ask("replay", "pid")
        if kind == "student":
            return (self._ask("coordinator", "student_pids") or [None])[0]
        pids = [pid for pid in (self._ask("pool", "pids") or {}).values() if pid]
        return self.rng.choice(pids) if pids else None

    def _next_kind(self) -> str:
        """Each kind once in random order, and again, so that none is left out of a short run."""
        if not self._order:
            self._order = self.rng.sample(KINDS, len(KINDS))
        return self._order.pop()

    def _kill(self, kind: str) -> None:
        known = set((self._ask("pool", "pids") or {}).values()) if kind == "generator" else set()
        pid = self._pid(kind)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.killed[kind] += 1
        began = time.monotonic()
        deadline = began + START_TIMEOUT_S
        while self._is_working() and not self._is_back(kind, pid, known):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {START_TIMEOUT_S:.0f} s for the {kind} that was killed to be replaced")
            time.sleep(0.3)
        self.back_s.setdefault(kind, []).append(time.monotonic() - began)
        print(f"soak: killed {kind}, replaced after {self.back_s[kind][-1]:.1f} s", flush=True)

    def _is_back(self, kind: str, pid: int, known: set[int | None]) -> bool:
        if kind != "generator":
            return self._pid(kind) not in (None, pid)
        pids = set((self._ask("pool", "pids") or {}).values())
        return len(pids) == len(known) and None not in pids and pid not in pids

    def _pids_of_services(self) -> dict[str, int]:
        """Processes that nobody kills."""
        prefix = self.run.manifest()["actors"]
        found = {"driver": self.process.pid}
        for actor in ray._private.state.actors().values():
            role = str(actor["Name"]).removeprefix(f"{prefix}/")
            if role in LONG_LIVED:
                found[role] = int(actor["Pid"])
        for child in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].decode()
            for name in ("raylet", "gcs_server"):
                if command.endswith(f"/{name}"):
                    found[name.removesuffix("_server")] = int(child)
        return found

    def _look(self, seconds: float) -> None:
        row = {"seconds": seconds}
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ray.exceptions.RayError):
            for role, pid in self._services.items():
                row[f"{role}_mb"] = resident_bytes(pid) / 1e6
            pids = {kind: self._pid(kind) for kind in KINDS}
            if None in pids.values():
                return  # one of them is being replaced
            for kind, pid in pids.items():
                row[f"{kind}_mb"] = resident_bytes(pid) / 1e6
            store = object_store()
            row |= {"store_mb": store["bytes_used"] / 1e6, "store_objects": store["num_objects"]}
            row["live_actors"] = sum(a["State"] == "ALIVE" for a in ray._private.state.actors().values())
            self.looks.append(row)
            if self.tell is not None:
                with self.tell.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def slope_per_hour(seconds: np.ndarray, values: np.ndarray) -> float:
    """Of the straight line through the second half of the looks: the first is still filling caches."""
    half = seconds >= seconds[-1] / 2
    if half.sum() < 3:
        return 0.0
    return float(np.polyfit(seconds[half], values[half], 1)[0] * 3600)


def figures_of(soak: Soak, wall_s: float) -> dict[str, float]:
    """Of each row of the looks: its median in the second and in the last quarter of the run, and its slope."""
    result = soak.run.result()
    figures: dict[str, float] = {
        "wall_s": wall_s,
        "student_steps": result["student_steps"],
        "restarts": result["restarts"],
        **{f"kills.{kind}": soak.killed[kind] for kind in KINDS},
        **{f"replaced_after_s.{kind}": float(np.median(s)) for kind, s in soak.back_s.items()},
        "num_looks": len(soak.looks),
    }
    seconds = np.array([row["seconds"] for row in soak.looks])
    for name in soak.looks[0]:
        if name == "seconds":
            continue
        values = np.array([row[name] for row in soak.looks])
        quarters = np.array_split(values, 4) if len(values) >= 4 else [values] * 4
        figures |= {
            f"{name}.second_quarter": float(np.median(quarters[1])),
            f"{name}.last_quarter": float(np.median(quarters[3])),
        }
        figures[f"{name}.slope_per_hour"] = slope_per_hour(seconds, values)
    return figures


def measure(folder: Path, plan: Plan, seed: int, tell: Path | None) -> dict[str, float]:
    with started(folder, plan) as (run, process):
        soak, began = Soak(run, process, plan, random.Random(seed), tell), time.monotonic()
        soak.go_on()
        if process.wait(START_TIMEOUT_S) != 0:
            raise RuntimeError(f"the run ended with exit code {process.returncode}: {run.manifest().get('error')}")
    told = Witnessed(folder / "witness")
    if told.broken():
        raise RuntimeError("; ".join(told.broken()))
    figures = figures_of(soak, time.monotonic() - began)
    return figures | {"images_inserted": len(told.inserted), "images_trained_on": len(told.seen), "buffers": told.num_epochs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, to see that it runs")
    parser.add_argument("--minutes", type=float, default=30.0, help="that the run would take without kills")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--keep", type=Path, help="folder for the run directory, for its report; otherwise it is removed")
    parser.add_argument("--tell", type=Path, help="file to which every look is added, one JSON object a line")
    given = parser.parse_args()
    plan = Plan(6.0, 0.05, (0.5, 1.0), 0.5) if given.quick else Plan(60 * given.minutes, 0.25, (20.0, 60.0), 5.0)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch) if given.keep is None else given.keep
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(folder, plan, given.seed, given.tell)
    for name, value in figures.items():
        print(f"soak: {name} = {value:,.4g}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
