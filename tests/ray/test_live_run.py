"""A live run seen, scaled and stopped from another shell, and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_experiment import BATCH_SIZE, GATED, LiveRun, distil, events, experiment

from raydfkd.errors import RunDirError, RunStoppedError
from raydfkd.pipeline.experiment.config import build_experiment
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.run_dir import RunDir
from raydfkd.runtime.live_run import reach
from raydfkd.testing.command import Finished, run_command
from raydfkd.testing.waiting import wait_until
from raydfkd.testing.witness import Witnessed

ROUNDS = 30
RATIO, ERROR_BUFFER = 4.0, 256.0


def shell(*arguments: str) -> Finished:
    """The command line in a process that knows nothing of this one's Ray."""
    return run_command(list(arguments), Path.cwd())


def status(run: Path) -> dict[str, Any]:
    done = shell("status", str(run), "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_a_run_is_seen_scaled_and_stopped_from_another_shell_and_resumed(
    teacher: Path, tmp_path: Path, gate: Callable[[float], None], witness: Path, no_actor_left: None
) -> None:
    """Decoupled, with a ratio: what is counted is right all along, and the rate limiter holds."""
    out = tmp_path / "run"
    tree = experiment(
        teacher,
        student=GATED,
        schedule={"mode": "decoupled", "rounds": ROUNDS, "samples_per_insert": RATIO, "error_buffer": ERROR_BUFFER},
        replay={"synthetic": {"capacity": 8192, "sampler": {"kind": "prioritized"}}},
        runtime={"wait_timeout_s": 300},
    )
    gate(22)
    out.mkdir()
    (out / "config.yaml").write_text(dump_yaml(build_experiment(tree)))
    live = LiveRun(tree, out)
    live.wait_for_step(21, 300)

    scaled = shell("scale", str(out), "--generators", "2", "--wait", "120")
    assert scaled.out == "inversion: 2 of 2 generators run\n", scaled.err
    seen = status(out)
    assert (seen["state"], seen["total_steps"]) == ("running", ROUNDS * 4)
    assert [(g["name"], g["state"]) for g in seen["generators"]] == [("inversion-0", "running"), ("inversion-1", "running")]
    assert seen["generators"][0]["images_synthesized"] > 0

    with reach(RunDir(out)) as run:
        run.request_stop()
    gate(float("inf"))
    with pytest.raises(RunStoppedError, match=rf"^the run was stopped at step 24 of {ROUNDS * 4}; .* raydfkd run .* --resume$"):
        live.result(300)
    manifest = RunDir(out).manifest()
    assert (manifest["state"], manifest["actors"], manifest["error"]) == ("stopped", None, None)
    assert sorted(p.name for p in (out / "checkpoints" / "step-00000024" / "generators").iterdir()) == [
        "inversion-0.pt",
        "inversion-1.pt",
    ]
    seen = status(out)
    assert (seen["state"], seen["step"]) == ("stopped", 24)
    refused = shell("scale", str(out), "--generators", "2")
    assert refused.code == 2
    assert refused.err == (f"raydfkd: the run in {out} is stopped and not running: resume it with raydfkd run --resume\n")

    result = distil(tree, out, resume=True)
    assert "resumed from step-00000024" in events(out)
    check_counts(RunDir(out), result)
    told = Witnessed(witness)
    assert told.broken() == []
    assert (told.num_epochs, set(told.steps)) == (2, set(range(ROUNDS * 4)))


def check_counts(run: RunDir, result: dict[str, Any]) -> None:
    drawn, made = ROUNDS * 4 * BATCH_SIZE, result["images_synthesized"]
    assert (result["student_steps"], result["images_distilled"]) == (ROUNDS * 4, drawn)
    assert abs(RATIO * (made - 4 * BATCH_SIZE) - drawn) <= ERROR_BUFFER + RATIO * BATCH_SIZE
    last = list(run.metrics("replay"))[-1]
    assert last["inserts"] >= made
    assert last["samples"] == drawn
    assert result["restarts"] == 0


@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_warm_up(teacher: Path, tmp_path: Path, no_actor_left: None) -> None:
    tree = experiment(teacher, schedule={"warmup_batches": 100_000}, replay={"synthetic": {"capacity": 512}})
    live = LiveRun(tree, tmp_path / "run")
    wait_until(lambda: any(live.run.metrics("synthesis")), 300, "no batch was made")
    with reach(live.run) as run:
        run.request_stop()
    with pytest.raises(RunStoppedError, match=r"^the run was stopped before the student's first round was over; "):
        live.result(300)
    assert live.run.manifest()["state"] == "stopped"


def test_a_run_whose_ray_is_gone_is_refused_at_once(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.update_manifest(state="running", actors="raydfkd-1", ray={"address": "127.0.0.1:9", "namespace": "raydfkd"})
    done = shell("stop", str(run.path))
    assert done.code == 2
    assert done.err.startswith("raydfkd: no Ray cluster answers at '127.0.0.1:9' (")
    assert shell("status", str(run.path)).code == 0, "what the directory says can be read all the same"


def test_a_run_whose_actors_are_gone_says_so(ray_instance: None, tmp_path: Path) -> None:
    import ray

    run = RunDir.create(tmp_path / "run")
    where = {"address": ray.get_runtime_context().gcs_address, "namespace": "raydfkd"}
    run.update_manifest(state="running", actors="raydfkd-none", ray=where)
    with (
        pytest.raises(RunDirError, match=r"died without a report: resume it with raydfkd run .* --resume$"),
        reach(run) as live,
    ):
        live.status()


def test_a_dead_address_is_refused_before_anything_starts(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text(dump_yaml(build_experiment(experiment(teacher))))
    done = run_command(["run", "exp.yaml", "--out", "new", "--address", "127.0.0.1:9"], tmp_path)
    assert done.code == 2
    assert "no Ray cluster answers at '127.0.0.1:9'" in done.err
    assert not (tmp_path / "new").exists()
