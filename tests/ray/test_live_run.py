"""A live run seen, scaled and stopped from another shell, and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_experiment import GATED, LiveRun, distil, events, experiment, wait_until

from raydfkd.errors import ResourceError, RunDirError, RunStoppedError
from raydfkd.pipeline.experiment.config import build_experiment
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.run_dir import RunDir
from raydfkd.runtime.live_run import reach

ROUNDS = 30


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, which knows nothing of this one's Ray."""
    command = [sys.executable, "-m", "raydfkd.cli.main", *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def status(run: Path) -> dict[str, Any]:
    done = shell("status", str(run), "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_run_is_scaled_seen_and_stopped_from_another_shell_and_resumed(
    teacher: Path, tmp_path: Path, gate: Callable[[float], None], no_actor_left: None
) -> None:
    out = tmp_path / "run"
    tree = experiment(
        teacher,
        student=GATED,
        schedule={"mode": "decoupled", "rounds": ROUNDS, "samples_per_insert": 4.0, "error_buffer": 256.0},
        runtime={"wait_timeout_s": 300},
    )
    gate(22)
    out.mkdir()
    (out / "config.yaml").write_text(dump_yaml(build_experiment(tree)))
    live = LiveRun(tree, out)
    live.wait_for_step(21, 300)

    scaled = shell("scale", str(out), "--generators", "2", "--wait", "120")
    assert scaled.stdout == "inversion: 2 of 2 generators run\n", scaled.stderr
    told = status(out)
    assert (told["state"], told["total_steps"]) == ("running", ROUNDS * 4)
    assert [(g["name"], g["state"]) for g in told["generators"]] == [("inversion-0", "running"), ("inversion-1", "running")]
    assert told["generators"][0]["images_synthesized"] > 0

    with reach(RunDir(out)) as run:
        run.request_stop()
    gate(float("inf"))
    with pytest.raises(RunStoppedError, match=rf"^the run was stopped at step 24 of {ROUNDS * 4}; .* raydfkd run .* --resume$"):
        live.result(120)
    manifest = RunDir(out).manifest()
    assert (manifest["state"], manifest["actors"], manifest["error"]) == ("stopped", None, None)
    assert sorted(p.name for p in (out / "checkpoints" / "step-00000024" / "generators").iterdir()) == [
        "inversion-0.pt",
        "inversion-1.pt",
    ]
    told = status(out)
    assert (told["state"], told["step"]) == ("stopped", 24)
    refused = shell("scale", str(out), "--generators", "2")
    assert refused.returncode == 2
    assert refused.stderr == (f"raydfkd: the run in {out} is stopped and not running: go on with raydfkd run --resume\n")

    result = distil(tree, out, resume=True)
    assert result["student_steps"] == ROUNDS * 4
    assert "resumed from step-00000024" in events(out)


def test_a_stop_does_not_wait_for_a_warm_up(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    tree = experiment(teacher, schedule={"warmup_batches": 100_000}, replay={"synthetic": {"capacity": 512}})
    live = LiveRun(tree, tmp_path / "run")
    wait_until(lambda: any(live.run.metrics("synthesis")), 200, "no batch was made")
    with reach(live.run) as run:
        run.request_stop()
    with pytest.raises(RunStoppedError, match=r"^the run was stopped before the student's first round was over; "):
        live.result(120)
    assert live.run.manifest()["state"] == "stopped"


def test_a_run_whose_ray_is_gone_is_refused_at_once(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.update_manifest(state="running", actors="raydfkd-1", ray={"address": "127.0.0.1:9", "namespace": "raydfkd"})
    done = shell("stop", str(run.path))
    assert done.returncode == 2
    assert done.stderr.startswith("raydfkd: no Ray cluster answers at '127.0.0.1:9' (")
    assert shell("status", str(run.path)).returncode == 0, "what the directory says can be read all the same"


def test_a_run_whose_actors_are_gone_says_so(ray_instance: None, tmp_path: Path) -> None:
    import ray

    run = RunDir.create(tmp_path / "run")
    where = {"address": ray.get_runtime_context().gcs_address, "namespace": "raydfkd"}
    run.update_manifest(state="running", actors="raydfkd-none", ray=where)
    with pytest.raises(RunDirError, match=r"are gone without a word: go on with raydfkd run .* --resume$"), reach(run) as live:
        live.status()


def test_a_dead_address_is_refused_in_seconds(teacher: Path, tmp_path: Path) -> None:
    code = "import sys, raydfkd, json\nraydfkd.distill(json.loads(sys.argv[1]), out=sys.argv[2], address='127.0.0.1:9')"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(experiment(teacher)), str(tmp_path / "run")],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ResourceError.__name__ in done.stderr
    assert "no Ray cluster answers at '127.0.0.1:9'" in done.stderr
