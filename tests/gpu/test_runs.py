"""Whole runs on a GPU, by both runners, and the methods with parts of their own. The CPU twins are tests/e2e and tests/ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydfkd.models.catalog import build_classifier
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.models.weights import save_weights
from raydfkd.pipeline.experiment.yaml_files import dump_yaml
from raydfkd.replay.config import SelectorConfig
from raydfkd.replay.device_replay import DeviceReplay
from raydfkd.synthesis.boundary import AttackConfig, BoundaryAttack
from raydfkd.synthesis.gans import hidfd
from raydfkd.synthesis.method import SynthesisContext, SynthesisParts
from raydfkd.tasks import build_task
from raydfkd.tasks.classification import ClassificationConfig
from raydfkd.types import BufferSummary, SyntheticBatch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SHAPE, CLASSES = (1, 8, 8), 10
GPU = torch.device("cuda:0")


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_classifier("small_cnn_8", CLASSES, SHAPE)


def frozen() -> FrozenTeacher:
    return FrozenTeacher(network(), CLASSES, SHAPE, (0.3,), (0.4,)).to(GPU)


def experiment(teacher: Path, runner: str, sampler: str) -> dict[str, Any]:
    return {
        "task": {"num_classes": CLASSES, "image_shape": list(SHAPE)},
        "teacher": {"model": "small_cnn_8", "checkpoint": str(teacher)},
        "sources": {"inversion": {"method": "ssdkd", "batch_size": 16, "base_channels": 4, "latent_dim": 8}},
        "replay": {"synthetic": {"capacity": 64, "sampler": {"kind": sampler}}},
        "students": {"small": {"model": "small_cnn_4", "batch_size": 16, "crop_padding": 1}},
        "schedule": {"warmup_batches": 2, "rounds": 3, "student_steps_per_round": 5},
        "evaluation": {"dataset": {"kind": "digits", "max_images": 60}},
        "runtime": {"runner": runner, "log_period_steps": 5},
    }


@pytest.mark.parametrize(("runner", "sampler"), [("local", "prioritized"), ("ray", "prioritized"), ("ray", "uniform")])
def test_a_run_on_the_gpu_that_no_setting_asks_for(tmp_path: Path, runner: str, sampler: str) -> None:
    if runner == "ray":
        pytest.importorskip("ray")
    teacher = tmp_path / "teacher.safetensors"
    save_weights(network(), teacher, {"mean": "[0.3]", "std": "[0.4]"})
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(experiment(teacher, runner, sampler)))
    done = subprocess.run(
        [sys.executable, "-m", "raydfkd", "run", str(file), "--out", str(tmp_path / "run")],
        capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["device"] == torch.cuda.get_device_name(0)
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    told = [record["message"] for record in records if record["kind"] == "event"]
    assert not any("CUDA graph" in message for message in told), told
    if runner == "ray":
        assert any(message.endswith("num_gpus auto: these get 0.5 each") for message in told), told
    assert all(record["step_s"] > 0 for record in records if record["kind"] == "distillation")


def test_hidfd_trains_and_delivers_on_the_gpu() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(30) % 3).astype(np.int32)
    images = SyntheticBatch(
        rng.integers(0, 256, (30, *SHAPE)).astype(np.uint8), labels.astype(np.int64), labels, np.full(30, 0.9, np.float32),
        "collected", "collected", -1,
    )  # fmt: skip
    config = hidfd.HiDFDConfig(
        pretrain_steps=3, gan_batch_size=6, batch_size=8, generator_channels=1, discriminator_channels=1, latent_dim=4
    )
    parts = SynthesisParts(build_task(ClassificationConfig(num_classes=CLASSES, image_shape=SHAPE)), frozen(), collected=images)
    synthesizer = hidfd.build(config, parts, SynthesisContext("gan-0", 0, 2, 1.0), GPU)
    while (prepared := synthesizer.prepare()) is not None:
        assert np.isfinite(list(prepared.metrics.values())).all()
    batch = synthesizer.step(BufferSummary(0, np.zeros(CLASSES, np.int64), 0))
    assert batch.images.shape == (8, *SHAPE)


def test_the_attack_crosses_the_boundary_on_the_gpu() -> None:
    attack = BoundaryAttack(AttackConfig(threshold=1.0, num_steps=30, step_size=1.0), frozen(), GPU)
    images = np.random.default_rng(0).integers(0, 256, (16, *SHAPE)).astype(np.uint8)
    with torch.no_grad():
        classes = frozen().logits_of(torch.from_numpy(images).to(GPU), True).argmax(1).cpu().numpy()
    found = attack(images, classes, torch.Generator().manual_seed(0))
    assert found.num_attacked == 16
    assert (found.teacher_class >= 0).all()


def test_draws_on_the_gpu_follow_their_priorities() -> None:
    config = SelectorConfig(kind="prioritized")
    replay = DeviceReplay(config, GPU)
    values = np.array([1.0, 0.0, 3.0, 4.0])
    replay.load(values)
    uniforms = torch.rand(40_000, dtype=torch.float64, device=GPU, generator=torch.Generator(GPU).manual_seed(0))
    slots, weights = replay.draw(uniforms, 0.4)
    shares = torch.bincount(slots, minlength=4).cpu() / len(slots)
    assert shares.tolist() == pytest.approx((values / 8).tolist(), abs=0.02)
    torch.testing.assert_close(weights[slots == 3][0].cpu(), torch.tensor((3 * 0.5) ** -0.4, dtype=torch.float32))
