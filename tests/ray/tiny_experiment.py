"""A distillation of seconds, and the views into a live run that the tests need."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import ray
import ray._private.state
import torch
from safetensors.torch import load_file

from raydfkd.models.catalog import build_classifier
from raydfkd.models.weights import save_weights
from raydfkd.pipeline.experiment.config import build_experiment
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.pipeline.run.execute import execute
from raydfkd.run_dir import RunDir
from raydfkd.runtime.ray_runner import run_ray
from raydfkd.runtime.replay.replay_actor import SNAPSHOT
from raydfkd.testing.waiting import wait_until

OURS = ("GeneratorActor", "GeneratorPoolActor", "ReplayActor", "WeightStoreActor", "CoordinatorActor", "RayTrainWorker")
BATCH_SIZE = 32
GATED = {"model": "raydfkd.testing.faulty_networks:gated_student"}
"""Settings of a student that the ``gate`` fixture stops."""


def save_teacher(path: Path) -> Path:
    torch.manual_seed(0)
    save_weights(build_classifier("small_cnn_8", 10, (1, 8, 8)), path)
    return path


def experiment(checkpoint: Path, /, **sections: dict[str, Any]) -> dict[str, Any]:
    """8 x 8 grey images, lockstep, six rounds of four steps; ``sections`` replaces settings of its parts.

    ``source`` and ``student`` stand for the one source and the one student.
    """
    tree: dict[str, Any] = {
        "task": {"num_classes": 10, "image_shape": [1, 8, 8]},
        "teacher": {
            "model": "small_cnn_8",
            "checkpoint": str(checkpoint),
            "normalization": {"mean": [0.3], "std": [0.3]},
        },
        "sources": {"inversion": {**_SOURCE, **sections.pop("source", {})}},
        "replay": {"synthetic": {"capacity": 512, "sampler": {"kind": "prioritized"}}},
        "students": {"small": {**_STUDENT, **sections.pop("student", {})}},
        "schedule": {"warmup_batches": 4, "rounds": 6, "student_steps_per_round": 4},
        "runtime": {
            "runner": "ray",
            "bf16": False,
            "device": "cpu",
            "log_period_steps": 4,
            "checkpoint_period_rounds": 2,
            "wait_timeout_s": 300,
        },
    }
    for name, section in sections.items():
        tree[name] = {**tree[name], **section}
    return tree


_SOURCE = {
    "method": "ssdkd",
    "batch_size": BATCH_SIZE,
    "steps_per_batch": 2,
    "base_channels": 8,
    "latent_dim": 16,
    "crop_padding": 1,
    "flip": False,
    "resources": {"num_cpus": 1, "num_threads": 1},
}
_STUDENT = {
    "model": "small_cnn_4",
    "batch_size": BATCH_SIZE,
    "crop_padding": 1,
    "flip": False,
    "optimizer": {"lr": 0.05},
    "resources": {"num_cpus": 1, "num_threads": 1},
}


def live_actors() -> list[str]:
    """Classes of this job's actors that are a run's and alive."""
    job = ray.get_runtime_context().get_job_id()
    return sorted(
        actor["ActorClassName"]
        for actor in ray._private.state.actors().values()
        if actor["JobID"] == job and actor["State"] == "ALIVE" and actor["ActorClassName"] in OURS
    )


def student_of(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "student.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def distil(tree: dict[str, Any], out: Path, *, overrides: tuple[str, ...] = (), resume: bool = False) -> dict[str, Any]:
    """As ``raydfkd.distill`` without the report; the result."""
    config = build_experiment(tree, overrides)
    run = RunDir.open(out) if resume else RunDir.create(out)
    if not resume:
        run.config_path.write_text(dump_yaml(config), encoding="utf-8")
    return execute(config, run, resume=resume, watcher=None, run_ray=run_ray)


def distil_locally(tree: dict[str, Any], out: Path) -> dict[str, Any]:
    return distil(tree, out, overrides=("runtime.runner=local",))


def events(run_dir: Path) -> list[str]:
    """What happened to the run's parts. That the images of a random teacher collapse, which is noticed or not, is left out."""
    messages = [record["message"] for record in RunDir(run_dir).metrics("event")]
    return [message for message in messages if "collapses onto few classes" not in message]


def _noted(path: Path, seen: set[int]) -> set[int]:
    """The times of writing of ``path`` that were seen so far."""
    seen.add(path.stat().st_mtime_ns if path.exists() else 0)
    return seen


class LiveRun:
    """A run in a thread of its own, so that a test can look into it and hurt it.

    Args:
        tree: the experiment.
        out: its run directory.
    """

    def __init__(self, tree: dict[str, Any], out: Path, **settings: Any) -> None:
        self.run = RunDir(out)
        self._result: dict[str, Any] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(tree, settings), daemon=True)
        self._thread.start()

    def _work(self, tree: dict[str, Any], settings: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        try:
            self._result = distil(tree, self.run.path, **settings)
        except BaseException as error:
            self._error = error

    def result(self, timeout_s: float) -> dict[str, Any]:
        """Waits for the end; raises what the run raised."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"the run has not ended within {timeout_s:g} s"
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def ask(self, role: str, method: str) -> Any:
        """What one of the run's actors answers; None while it cannot be asked."""
        prefix = self.run.manifest().get("actors") if self.run.manifest_path.exists() else None
        if prefix is None:
            return None
        try:
            return ray.get(getattr(ray.get_actor(f"{prefix}/{role}"), method).remote(), timeout=10)
        except (ValueError, ray.exceptions.RayError):
            return None

    def step(self) -> int:
        """Student steps drawn so far."""
        stats = self.ask("replay", "stats")
        return -1 if stats is None else stats[0]

    def wait_for_snapshot(self) -> None:
        """Until one is written that was begun after this call."""
        seen: set[int] = set()
        path = self.run.path / SNAPSHOT / "exchange.json"
        wait_until(lambda: len(_noted(path, seen)) > 2, 300, "no snapshot was written")

    def wait_for_step(self, step: int, timeout_s: float = 300) -> None:
        wait_until(lambda: self.ended or self.step() >= step, timeout_s, f"the student has not come to step {step}")
        if self.ended:
            self.result(0)
            raise AssertionError("the run ended before it could be hurt: give it more rounds")
