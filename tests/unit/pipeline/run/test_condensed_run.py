"""Whole runs of CMI, PRE-DFKD and feature alignment on real digits: what they record, and that a killed one goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import At, experiment

from raydfkd.api import Result, distill
from raydfkd.errors import RaydfkdError
from raydfkd.run_dir import RunDir

Run = Callable[..., Result]

ALIGNMENT = {"hidden_dim": 16}
SOURCES: dict[str, dict[str, Any]] = {
    "fast": {"base_channels": 4, "latent_dim": 8, "crop_padding": 1, "flip": False},
    "cmi": {
        "base_channels": 4,
        "latent_dim": 8,
        "crop_padding": 1,
        "flip": False,
        "steps_per_batch": 3,
        "projected_dim": 8,
        "bank_size": 48,
        "num_negatives": 32,
    },
    "predfkd": {"memory_share": 0.25, "generator_batch_size": 16, "base_channels": 4, "latent_dim": 8},
}


@pytest.fixture
def run(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("raydfkd.report.html.write_report", lambda path: path / "report.html")
    monkeypatch.setattr("raydfkd.pipeline.run.recorder.Recorder._to_tensorboard", lambda self, record: None)

    def go(method: str, out: Path, *overrides: str, alignment: dict[str, Any] | None = ALIGNMENT, **options: Any) -> Result:
        tree = experiment(teacher)
        tree["sources"] = {"made": {"method": method, "batch_size": 16, "feature_alignment": alignment, **SOURCES[method]}}
        tree["collected"] = {"dataset": {"kind": "digits", "split": "train"}, "labels": "dataset", "num_images": 40}
        tree["collected"]["balanced"] = True
        tree["replay"] |= {"pinned": {"capacity": 40}, "inflation": 1}
        tree["students"]["small"]["objective"] = {"kind": "l1"}
        return distill(tree, overrides=overrides, out=out, **options)

    return go


@pytest.mark.parametrize("method", list(SOURCES))
def test_a_run_on_real_images(method: str, run: Run, tmp_path: Path) -> None:
    result = run(method, tmp_path / "run").result
    kept = RunDir(tmp_path / "run")
    assert (result["method"], result["student_steps"], result["images_synthesized"]) == (method, 8, 64)
    made = list(kept.metrics("synthesis"))
    assert all(np.isfinite([record["alignment_loss"], record["discriminator_loss"]]).all() for record in made)
    with np.load(kept.analysis / "alignment.npz") as arrays:
        assert len(arrays["prototype_features"]) == 40
        assert np.isfinite(arrays["distances"]).all()
        # Of 64 images the buffer still has 40, of the second batch and the next two.
        assert (arrays["first_batches"].tolist(), arrays["last_batches"].tolist()) == ([1, 2], [2, 3])
    assert list(kept.metrics("replay"))[-1]["tables"]["pinned"]["size"] == 40
    purposes = [split["purpose"] for split in kept.manifest()["data_splits_read"]]
    assert purposes == ["evaluation only", "training, as collected images; labels read"]


def test_a_run_without_alignment_leaves_nothing_of_it(run: Run, tmp_path: Path) -> None:
    run("fast", tmp_path / "run", alignment=None)
    assert not (tmp_path / "run" / "analysis" / "alignment.npz").exists()


@pytest.mark.parametrize("method", list(SOURCES))
def test_a_killed_run_goes_on_to_the_same_student(method: str, run: Run, tmp_path: Path) -> None:
    """Through a checkpoint of discriminator, head, bank and memory."""
    unbroken = run(method, tmp_path / "unbroken")

    def kill() -> None:
        raise KeyboardInterrupt

    at = At(lambda record: record["kind"] == "distillation" and record["step"] == 8, kill)
    with pytest.raises(KeyboardInterrupt):
        run(method, tmp_path / "killed", watcher=at)
    resumed = distill(tmp_path / "killed" / "config.yaml", out=tmp_path / "killed", resume=True)
    students = [load_file(Path(result.run_dir) / "student.safetensors") for result in (unbroken, resumed)]
    assert all(torch.equal(tensor, students[1][key]) for key, tensor in students[0].items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["collected=null", "replay.pinned=null", "replay.inflation=null"],
            "sources.made.feature_alignment aligns with real or",
        ),
        (["collected.balanced=false", "collected.num_images=3"], "no collected image of class"),
        (
            ["sources.made={method: procedural, images: {kind: noise}, feature_alignment: {}}"],
            "sources.made: feature_alignment needs images that are optimised through the teacher, which method procedural",
        ),
        (["sources.made={method: hidfd, feature_alignment: {}}"], "which method hidfd does not do: leave it out, or choose"),
        (["sources.made.feature_alignment.layer=conv9"], "the teacher has no layer 'conv9' to read features of"),
    ],
)
def test_what_alignment_lacks_is_said_before_the_run(overrides: list[str], message: str, run: Run, tmp_path: Path) -> None:
    with pytest.raises(RaydfkdError, match=message):
        run("fast", tmp_path / "run", *overrides)
