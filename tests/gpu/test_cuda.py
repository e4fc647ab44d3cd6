"""The same parts on a GPU as on the CPU. Their CPU twins are tests/unit/{synthesis,distillation}."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raydfkd.distillation.config import OptimizerConfig, StudentConfig
from raydfkd.distillation.device_mirror import DeviceMirror
from raydfkd.distillation.distiller import Distiller
from raydfkd.models.catalog import build_classifier
from raydfkd.models.generators import build_generator
from raydfkd.models.teachers.batch_moments import batch_moments
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.synthesis.method import SynthesisContext, SynthesisParts
from raydfkd.synthesis.ssdkd import SSDKDConfig, SSDKDSynthesizer
from raydfkd.tasks import build_task
from raydfkd.tasks.classification import ClassificationConfig
from raydfkd.types import BufferSummary

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SHAPE = (3, 16, 16)


def _network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_classifier("small_cnn_8", 10, SHAPE)


def _teacher() -> FrozenTeacher:
    return FrozenTeacher(_network(0), 10, SHAPE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def _distiller(device: str) -> Distiller:
    config = StudentConfig(model="small_cnn_8", batch_size=32, optimizer=OptimizerConfig(lr=0.05), crop_padding=2)
    distiller = Distiller(config, _teacher(), _network(1), 10, torch.device(device), bf16=False)
    distiller.reseed(3)
    return distiller


def test_a_step_on_the_gpu_is_the_step_on_the_cpu() -> None:
    images = torch.randint(0, 256, (32, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(32, generator=torch.Generator().manual_seed(1))
    outputs = {}
    for device in ("cpu", "cuda"):
        distiller = _distiller(device)
        for _ in range(3):
            outputs[device] = distiller.step(images.to(device), weights.to(device))
    torch.testing.assert_close(outputs["cuda"].priorities_B.cpu(), outputs["cpu"].priorities_B, rtol=1e-2, atol=1e-3)


def test_a_synthesized_batch_starts_from_the_same_draws() -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(5)
        generator = build_generator("standard", SHAPE, 16, 8)
        config = SSDKDConfig(batch_size=16, latent_dim=16, steps_per_batch=1)
        context = SynthesisContext("g-0", 7, 1, 20.0, bf16=False)
        parts = SynthesisParts(build_task(ClassificationConfig(num_classes=10, image_shape=SHAPE)), _teacher(), _network(1))
        synthesizer = SSDKDSynthesizer(config, parts, generator, context, torch.device(device))
        batch = synthesizer.step(BufferSummary(16, np.arange(10), 5))
        assert batch.images.dtype == np.uint8
        losses[device] = batch.metrics["loss"]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-2)


def test_moments_and_their_gradient_agree_with_the_cpu() -> None:
    x = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    results = []
    for device in ("cpu", "cuda"):
        leaf = x.clone().to(device).requires_grad_()
        mean, variance = batch_moments(leaf)
        (mean.square().sum() + variance.sum()).backward()
        assert leaf.grad is not None
        results.append((mean.cpu(), variance.cpu(), leaf.grad.cpu()))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_mirror_lies_on_the_gpu() -> None:
    mirror = DeviceMirror(4, (1, 2, 2), torch.device("cuda"))
    images = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
    mirror.apply(np.array([3, 0], np.int32), np.array([5, 6]), images)
    gathered, keys = mirror.gather(np.array([0, 3]))
    assert gathered.is_cuda
    np.testing.assert_array_equal(gathered.cpu().numpy(), images[[1, 0]])
    assert keys.tolist() == [6, 5]


def test_dropout_on_the_gpu_draws_from_the_seed_alone() -> None:
    def dropped(disturbed: bool) -> tuple[torch.Tensor, torch.Tensor]:
        distiller = _distiller("cuda")
        distiller.student.fc = torch.nn.Sequential(torch.nn.Dropout(0.5), distiller.student.fc)  # type: ignore[arg-type]
        outside = torch.cuda.get_rng_state()
        images = torch.randint(0, 256, (32, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).cuda()
        priorities = []
        for _ in range(2):
            if disturbed:
                torch.rand(5, device="cuda")
                outside = torch.cuda.get_rng_state()
            priorities.append(distiller.step(images, torch.ones(32, device="cuda")).priorities_B)
            assert torch.equal(torch.cuda.get_rng_state(), outside)
        return priorities[0], priorities[1]

    first, second = dropped(disturbed=False)
    again, _ = dropped(disturbed=True)
    torch.testing.assert_close(again, first, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(first, second)
