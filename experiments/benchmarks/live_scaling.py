"""Generators scaled 1 -> 4 -> 1 in a live run: what it does to the student's pace, and to the images synthesized.

    python experiments/benchmarks/live_scaling.py [--quick] [--sleep-s 2] [--keep DIR]

A run on a local Ray, in a process of its own. Its teacher sleeps for a fixed time in synthesis (and nowhere else), so that a
batch costs time and hardly any processor: two cores then show what four generators with processors of their own would do. The
student is bound to no ratio and goes at its own pace. This process scales the run as ``raydfkd scale`` does, from outside, and
stops it in the end. Rates are read from the run's metrics.jsonl: from the moment at which all generators of a phase run to the
next change.

Prints readable lines and, last, one JSON object of the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.run_dir import RunDir
from raydfkd.runtime.live_run import LiveRun, reach
from raydfkd.testing.faulty_networks import SLEEP_S

BATCH_SIZE = 64
PHASES = (("1", 1), ("4", 4), ("1_again", 1))
START_TIMEOUT_S = 300.0
STOPPED = 3
"""Exit code of a run that ``raydfkd stop`` ended."""


def experiment() -> dict[str, Any]:
    """CIFAR-size images, decoupled; two steps a batch, so a generator takes two sleeps for one."""
    resources = {"num_cpus": 1, "num_threads": 1}
    return {
        "task": {"num_classes": 10, "image_shape": [3, 32, 32]},
        "teacher": {
            "model": "raydfkd.testing.faulty_networks:slow_teacher",
            "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3},
        },
        "sources": {
            "inversion": {
                "method": "ssdkd", "batch_size": BATCH_SIZE, "steps_per_batch": 2, "base_channels": 8, "latent_dim": 32,
                "resources": resources,
            }
        },
        "replay": {"synthetic": {"capacity": 4096, "sampler": {"kind": "prioritized"}}},
        "students": {"small": {"model": "small_cnn_8", "batch_size": 256, "resources": resources}},
        "schedule": {"mode": "decoupled", "warmup_batches": 2, "rounds": 1_000_000, "student_steps_per_round": 20},
        # A local Ray of more CPUs than there may be: sleepers need none.
        "runtime": {
            "runner": "ray", "num_cpus": 8, "log_period_steps": 5, "checkpoint_period_rounds": 1_000_000, "bf16": False,
            "wait_timeout_s": START_TIMEOUT_S,
        },
    }  # fmt: skip


@contextlib.contextmanager
def started(folder: Path, sleep_s: float) -> Iterator[tuple[RunDir, subprocess.Popen[bytes]]]:
    """The run, in a process of its own that does not outlive the context."""
    file, out = folder / "experiment.yaml", folder / "run"
    file.write_text(json.dumps(experiment()))
    command = [sys.executable, "-m", "raydfkd.cli.main", "run", str(file), "--out", str(out)]
    process = subprocess.Popen(command, env={**os.environ, SLEEP_S: str(sleep_s)}, stdout=subprocess.DEVNULL)
    run = RunDir(out)
    try:
        wait_until(lambda: any(run.metrics("throughput")), START_TIMEOUT_S, "the student's first steps", process)
        yield run, process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def wait_until(done: Any, timeout_s: float, what: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if process.poll() is not None:
            raise RuntimeError(f"the run ended with exit code {process.returncode} before {what}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(0.2)


def scale(live: LiveRun, number: int) -> float:
    """Seconds until that many run and no other is left."""
    began = time.monotonic()
    status = live.scale(None, number, START_TIMEOUT_S)["inversion"]
    if status["running"] != number or status["draining"]:
        raise TimeoutError(f"asked for {number} generators and there are {status}")
    return time.monotonic() - began


def phases_of(run: RunDir) -> dict[str, tuple[float, float]]:
    """Begin and end of each phase in the run's own seconds: all its generators run, and no change has been asked for."""
    records = list(run.metrics("generators"))
    end = max(record["time_s"] for record in run.metrics("throughput"))
    first_step = next(record["time_s"] for record in run.metrics("throughput"))
    spans, position = {}, 0
    for name, number in PHASES:
        settled = next(
            place
            for place in range(position, len(records))
            if records[place]["running"] == records[place]["target"] == number and not records[place]["draining"]
        )
        changed = next((p for p in range(settled, len(records)) if records[p]["target"] != number), len(records))
        begin = max(records[settled]["time_s"], first_step)
        spans[name] = begin, records[changed]["time_s"] if changed < len(records) else end
        position = changed
    return spans


def figures_of(run: RunDir) -> dict[str, float]:
    throughput = list(run.metrics("throughput"))
    steps = np.array([(record["time_s"], record["step"]) for record in throughput])
    waits = np.array([record["student_wait_data_s"] + record["student_wait_limiter_s"] for record in throughput])
    batches = np.array([(record["time_s"], record["num_images"]) for record in run.metrics("synthesis")])
    figures = {}
    for name, (begin, end) in phases_of(run).items():
        first, last = np.interp([begin, end], steps[:, 0], steps[:, 1])
        inside = (batches[:, 0] > begin) & (batches[:, 0] <= end)
        figures[f"steps_per_s_{name}"] = float(last - first) / (end - begin)
        figures[f"wait_fraction_{name}"] = float(waits[(steps[:, 0] > begin) & (steps[:, 0] <= end)].sum()) / (end - begin)
        figures[f"images_per_s_{name}"] = float(batches[inside, 1].sum()) / (end - begin)
    for rate in ("steps", "images"):
        for name in ("4", "1_again"):
            base = max(figures[f"{rate}_per_s_1"], 1e-9)
            figures[f"{rate}_ratio_{name}_to_1"] = figures[f"{rate}_per_s_{name}"] / base
    return figures


def measure(folder: Path, phase_s: float, sleep_s: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    with started(folder, sleep_s) as (run, process):
        with reach(run) as live:
            time.sleep(phase_s)
            figures["scale_up_s"] = scale(live, 4)
            time.sleep(phase_s)
            figures["scale_down_s"] = scale(live, 1)
            time.sleep(phase_s)
            live.request_stop()
        if process.wait(START_TIMEOUT_S) != STOPPED:
            raise RuntimeError(f"the run ended with exit code {process.returncode}")
        return figures | figures_of(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="short phases, to see that it runs; its figures mean nothing")
    parser.add_argument("--sleep-s", type=float, default=2.0, help="of a step of synthesis; a batch takes two")
    parser.add_argument("--keep", type=Path, help="folder for the run directory, for its report; otherwise it is removed")
    given = parser.parse_args()
    phase_s, sleep_s = (2.0, 0.1) if given.quick else (60.0, given.sleep_s)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch) if given.keep is None else given.keep
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(folder, phase_s, sleep_s)
    for name, value in figures.items():
        print(f"live_scaling: {name} = {value:,.4g}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
