"""The student's step as one CUDA graph against the same step run plainly; steps that wait for nothing. The CPU twins are
tests/unit/distillation/test_recorded_step.py and test_student_waits.py, tests/unit/synthesis/test_synthesis_waits.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from raydfkd.distillation.config import StudentConfig
from raydfkd.distillation.distiller import Distiller
from raydfkd.distillation.objectives import OBJECTIVES
from raydfkd.models.catalog import build_classifier
from raydfkd.models.teachers.folded_teacher import fold_batch_norm
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.synthesis.method import SynthesisContext, SynthesisParts
from raydfkd.synthesis.ssdkd import SSDKDConfig, SSDKDSynthesizer
from raydfkd.tasks import build_task
from raydfkd.tasks.classification import ClassificationConfig
from raydfkd.types import BufferSummary

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SHAPE, CLASSES, BATCH = (3, 16, 16), 10, 32
STEPS = 8
"""More than the warm-up of a recording."""


def network(name: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_classifier(name, CLASSES, SHAPE)


def frozen(name: str = "wrn_16_1") -> FrozenTeacher:
    return FrozenTeacher(network(name, 0), CLASSES, SHAPE, (0.5,) * 3, (0.25,) * 3)


def distiller(bf16: bool = False, **settings: Any) -> Distiller:
    base = {"model": "small_cnn_8", "batch_size": BATCH, "crop_padding": 2, "optimizer": {"lr": 0.02}}
    config = StudentConfig.model_validate({**base, **settings})
    made = Distiller(config, frozen(), network("resnet8", 1), 20, torch.device("cuda:0"), bf16=bf16)
    made.reseed(3)
    return made


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (BATCH, *SHAPE), dtype=torch.uint8, generator=generator)
    return images.cuda(), torch.rand(BATCH, generator=generator).cuda()


@contextmanager
def waits_forbidden() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


KINDS: list[dict[str, Any]] = [{"objective": {"kind": kind}} for kind in OBJECTIVES.names()]
OTHERS: list[dict[str, Any]] = [
    {},
    {"augmentation": {"level": "extreme", "mixup": "sample"}},
    {"accumulation_steps": 2, "optimizer": {"lr": 0.02, "max_grad_norm": 0.5, "nesterov": True}},
    {"optimizer": {"lr": 0.02, "schedule": "one_cycle", "warmup_steps": 4}},
]


@pytest.mark.parametrize("settings", [*OTHERS, *KINDS], ids=str)
def test_a_recorded_step_is_the_plain_one(settings: dict[str, Any]) -> None:
    plain, recorded = distiller(cuda_graph=False, **settings), distiller(**settings)
    for number in range(STEPS):
        expected, found = plain.step(*batch(number)), recorded.step(*batch(number))
        torch.testing.assert_close(found.priorities_B, expected.priorities_B, rtol=2e-2, atol=2e-2)
        assert found.lr == expected.lr
    assert recorded.notes == []
    assert recorded._recorded is not None
    for one, other in zip(plain.student_ema.parameters(), recorded.student_ema.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=5e-2, atol=5e-3)


def test_bfloat16_learns_what_float32_learns() -> None:
    exact, low = distiller(), distiller(bf16=True)
    losses = []
    for each in (exact, low):
        losses.append([float(each.step(*batch(0)).loss) for _ in range(12)])
    assert losses[1] == pytest.approx(losses[0], rel=0.2, abs=0.05)
    assert losses[1][-1] < losses[1][0]


def test_the_folded_teacher_agrees_on_the_gpu() -> None:
    teacher = frozen().cuda()
    folded, refusal = fold_batch_norm(teacher)
    assert refusal is None
    images = torch.rand(64, *SHAPE, device="cuda")
    plain = teacher(images)
    torch.testing.assert_close(folded(images), plain, rtol=1e-2, atol=1e-2 * float(plain.abs().max()))


@pytest.mark.parametrize("settings", [{"cuda_graph": False}, {}, {"augmentation": {"level": "extreme"}, "cuda_graph": False}])
def test_a_step_waits_for_nothing(settings: dict[str, Any]) -> None:
    made = distiller(**settings)
    images, weights = batch(0)
    for _ in range(STEPS):
        made.step(images, weights)
    with waits_forbidden():
        for _ in range(3):
            made.step(images, weights)


def test_making_a_batch_waits_for_nothing_until_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SSDKDConfig(batch_size=16, latent_dim=16, steps_per_batch=2, base_channels=8)
    task = build_task(ClassificationConfig(num_classes=CLASSES, image_shape=SHAPE))
    parts = SynthesisParts(task, frozen(), network("small_cnn_8", 1))
    synthesizer = SSDKDSynthesizer.build(config, parts, SynthesisContext("g-0", 7, 1, 20.0), torch.device("cuda:0"))
    summary = BufferSummary(50, np.full(CLASSES, 5), 50)
    for _ in range(3):
        batch_ = synthesizer.step(summary)
    assert np.isfinite(batch_.metrics["loss"])
    monkeypatch.setattr(synthesizer, "_finish", lambda *args: None)
    with waits_forbidden():
        synthesizer.step(summary)


def test_one_worker_of_a_group_runs_plainly_and_says_so() -> None:
    distributed.init_process_group("nccl", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        alone, grouped = distiller(cuda_graph=False), distiller()
        grouped.wrap_learner(DistributedDataParallel)
        for number in range(3):
            expected, found = alone.step(*batch(number)), grouped.step(*batch(number))
        torch.testing.assert_close(found.priorities_B, expected.priorities_B, rtol=2e-2, atol=2e-2)
        assert grouped.notes == ["the student's step is not one CUDA graph: its workers exchange gradients in it"]
    finally:
        distributed.destroy_process_group()


def test_a_student_that_waits_in_its_step_runs_plainly_and_says_so() -> None:
    class Waiting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network("small_cnn_8", 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images) * (1.0 if float(images.sum()) > -1e9 else 0.0)

    config = StudentConfig(model="small_cnn_8", batch_size=BATCH)
    made = Distiller(config, frozen(), Waiting(), 20, torch.device("cuda:0"), bf16=False)
    for number in range(STEPS):
        output = made.step(*batch(number))
    assert torch.isfinite(output.loss)
    assert len(made.notes) == 1
    assert made.notes[0].startswith("the student's step is not one CUDA graph: it cannot be recorded")
