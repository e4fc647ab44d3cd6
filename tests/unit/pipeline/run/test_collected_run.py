"""Runs that learn from collected images too: HiDFD and DeGAN whole, collected images alone, kills while a GAN is trained, and
between the steps of an objective with a state of its own."""

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
from raydfkd.errors import ConfigError
from raydfkd.evaluation import class_entropy
from raydfkd.pipeline.run import collecting
from raydfkd.run_dir import RunDir
from raydfkd.synthesis.gans import gan_synthesizer

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def tree(teacher: Path) -> dict[str, Any]:
    settings = experiment(teacher)
    settings["collected"] = {
        "dataset": {"kind": "digits", "split": "train"}, "num_images": 20, "imbalance": 3, "original_size": 200,
    }  # fmt: skip
    settings["sources"] = {
        "gan": {
            "method": "hidfd", "batch_size": 16, "pretrain_steps": 4, "gan_batch_size": 4, "latent_dim": 4,
            "generator_channels": 1, "discriminator_channels": 1,
        }
    }  # fmt: skip
    settings["replay"]["pinned"] = {"capacity": 20}
    settings["students"]["small"]["objective"] = {"kind": "classifier_sharing"}
    settings["schedule"]["batches_per_round"] = 0
    return settings


@pytest.fixture
def run(tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("raydfkd.report.html.write_report", lambda path: path / "report.html")
    monkeypatch.setattr("raydfkd.pipeline.run.recorder.Recorder._to_tensorboard", lambda self, record: None)
    monkeypatch.setattr(gan_synthesizer, "SLICE_S", 0.0)  # one GAN step a slice

    def go(out: Path, *overrides: str, **options: Any) -> Result:
        return distill(tree, overrides=overrides, out=out, **options)

    return go


def test_the_papers_schedule_trains_the_gan_makes_the_pool_and_distils(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "run").result
    kept = RunDir(tmp_path / "run")
    assert (result["method"], result["student_steps"], result["images_synthesized"]) == ("hidfd", 8, 32)
    assert [r["done"] for r in kept.metrics("preparation")] == [1, 2, 3, 4]
    assert [r["kind"] for r in kept.metrics() if r["kind"] in ("preparation", "synthesis")] == ["preparation"] * 4 + [
        "synthesis"
    ] * 2
    tables = list(kept.metrics("replay"))[-1]["tables"]
    assert (tables["synthetic"]["size"], tables["pinned"]["size"]) == (32, 20)
    assert not kept.preparation.exists(), "the first checkpoint has taken its place"
    purposes = [split["purpose"] for split in kept.manifest()["data_splits_read"]]
    assert purposes == ["evaluation only", "training, as collected images; labels not read"]
    named = {key for figure in kept.manifest()["figures"] for key in figure["curves"]}
    assert {"real_confidence", "class_hit_rate"} <= named, "of the method's own numbers, for the report"
    assert all(named <= record.keys() for record in kept.metrics("preparation"))
    sources = np.load(kept.samples / "by_class.npz")["source"]
    assert set(sources) == {"hidfd", "collected"}
    assert any(name.startswith("projector.") for name in load_file(kept.path / "student.safetensors"))


def test_the_same_seed_repeats_it_and_streaming_goes_on_training(run: Run, tmp_path: Path) -> None:
    streaming = ("schedule.batches_per_round=1", "sources.gan.steps_per_batch=2")
    for name in ("one", "two"):
        run(tmp_path / name, *streaming)
    students = [load_file(tmp_path / name / "student.safetensors") for name in ("one", "two")]
    assert all(torch.equal(tensor, students[1][key]) for key, tensor in students[0].items())
    made = list(RunDir(tmp_path / "one").metrics("synthesis"))
    assert len(made) == 4
    assert all("discriminator_loss" in record for record in made)


def test_collected_images_alone_need_no_generator(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "run", "sources.gan=null", "schedule.warmup_batches=0").result
    assert (result["method"], result["images_synthesized"], result["student_steps"]) == ("collected", 0, 8)
    with np.load(tmp_path / "run" / "analysis" / "buffer.npz") as kept:
        counts = np.bincount(kept["teacher_class"], minlength=10)
    assert counts.sum() == 20
    assert class_entropy(counts) > 0.5
    assert result["class_entropy"] == pytest.approx(class_entropy(counts))


def test_synthetic_images_alone(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "run", "replay.inflation=0", "runtime.checkpoint_period_rounds=1")
    drawn = RunDir(tmp_path / "run").latest_checkpoint()
    assert drawn is not None


DEGAN = "sources.gan={method: degan, batch_size: 16, pretrain_steps: 4, gan_batch_size: 4, base_channels: 1}"


@pytest.mark.parametrize("overrides", [(), (DEGAN, "students.small.objective={kind: kd3}")], ids=["hidfd", "degan and kd3"])
def test_a_run_killed_while_its_gan_is_trained_goes_on_from_there(run: Run, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    unbroken = run(tmp_path / "unbroken", *overrides)

    def kill() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path / "killed",
            *overrides,
            "runtime.snapshot_period_s=1e-9",
            watcher=At(lambda record: record["kind"] == "preparation" and record["done"] == 3, kill),
        )
    assert (tmp_path / "killed" / "preparation" / "generators" / "gan-0.pt").exists()
    resumed = distill(tmp_path / "killed" / "config.yaml", out=tmp_path / "killed", resume=True)
    done = [r["done"] for r in RunDir(tmp_path / "killed").metrics("preparation")]
    assert done[-1] == 4
    assert len(done) < 3 + 4, "it did not begin anew"
    students = [load_file(Path(result.run_dir) / "student.safetensors") for result in (unbroken, resumed)]
    assert all(torch.equal(tensor, students[1][key]) for key, tensor in students[0].items())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["collected=null", "replay.pinned=null"], "source 'gan' trains on real images"),
        (["collected=null"], "replay.pinned has nothing to hold"),
        (["sources.gan=null"], "without sources nothing is synthesized: set schedule.warmup_batches=0"),
        (["sources.gan=null", "replay.pinned=null"], "nothing fills the buffer"),
        (["schedule.warmup_batches=0"], "leaves the student nothing to start from"),
        (["replay.pinned.capacity=19"], "20 images were collected and replay.pinned.capacity is 19"),
        (["replay.inflation=2", "replay.pinned_fraction=0.5"], "both say how a batch is split"),
    ],
)
def test_refusals(run: Run, tmp_path: Path, overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run(tmp_path / "run", *overrides)
    assert not (tmp_path / "run").exists()


def test_what_a_user_should_know_of_the_images_is_told(run: Run, tmp_path: Path) -> None:
    few = ("collected.num_images=2", "collected.imbalance=null", "replay.synthetic.capacity=900", "replay.pinned.capacity=2")
    run(tmp_path / "run", *few)
    told = [r["message"] for r in RunDir(tmp_path / "run").metrics("event")]
    assert any("the teacher assigns no collected image to class" in line for line in told)
    assert any("counts 450 times in the mix" in line for line in told)


def test_the_kept_images_are_what_was_collected(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "run")
    batch = collecting.read(RunDir(tmp_path / "run"))
    assert batch is not None
    assert (len(batch), batch.source, batch.images.shape) == (20, "collected", (20, 1, 8, 8))


@pytest.mark.parametrize("kind", ["dfnd", "kd3"])
def test_a_run_on_confident_images_that_was_stopped_goes_on_from_there(run: Run, tmp_path: Path, kind: str) -> None:
    overrides = (
        *("sources.gan=null", "schedule.warmup_batches=0", f"students.small.objective={{kind: {kind}}}"),
        *("collected.imbalance=null", "collected.confident=true", "runtime.checkpoint_period_rounds=1"),
    )
    unbroken = run(tmp_path / "unbroken", *overrides)

    def kill() -> None:
        raise KeyboardInterrupt

    second_round = At(lambda record: record["kind"] == "distillation" and record["step"] == 8, kill)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", *overrides, watcher=second_round)
    assert RunDir(tmp_path / "killed").latest_checkpoint() is not None
    resumed = distill(tmp_path / "killed" / "config.yaml", out=tmp_path / "killed", resume=True)
    students = [load_file(Path(result.run_dir) / "student.safetensors") for result in (unbroken, resumed)]
    assert all(torch.equal(tensor, students[1][key]) for key, tensor in students[0].items())
    assert collecting.read(RunDir(tmp_path / "killed")).teacher_confidence.min() > 0.5  # type: ignore[union-attr]
