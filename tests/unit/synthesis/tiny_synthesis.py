"""A tiny BatchNorm teacher whose statistics are those of random pictures, and synthesizers around it."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import torch
from torch import nn

from raydfkd.models.catalog import build_classifier
from raydfkd.models.generators import build_generator
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.synthesis.fast import FastConfig, FastSynthesizer
from raydfkd.synthesis.method import SynthesisContext, SynthesisParts
from raydfkd.synthesis.methods import METHODS
from raydfkd.synthesis.ssdkd import SSDKDConfig, SSDKDSynthesizer
from raydfkd.tasks import build_task
from raydfkd.tasks.classification import ClassificationConfig
from raydfkd.types import BufferSummary, SyntheticBatch

SHAPE = (1, 8, 8)
CLASSES = 10
MEAN, STD = (0.3,), (0.35,)
TASK = build_task(ClassificationConfig(num_classes=CLASSES, image_shape=SHAPE))
# The adversarial weight makes that term, small for these networks, as large as the others.
SMALL: dict[str, Any] = {"batch_size": 12, "base_channels": 4, "latent_dim": 6, "crop_padding": 1, "adversarial_weight": 300.0}


def summary(num_batches: int = 0, counts: list[int] | None = None) -> BufferSummary:
    held = np.array(counts if counts is not None else [0] * CLASSES, dtype=np.int64)
    return BufferSummary(int(held.sum()), held, num_batches)


def build_teacher(seed: int = 0) -> FrozenTeacher:
    torch.manual_seed(seed)
    network = build_classifier("small_cnn_4", CLASSES, SHAPE)
    for _ in range(20):  # so that the running statistics are some pictures' own, and not 0 and 1
        network((torch.rand(64, *SHAPE) ** 3 - MEAN[0]) / STD[0])
    with torch.no_grad():
        network.fc.weight.mul_(8)  # decided opinions
    return FrozenTeacher(network, CLASSES, SHAPE, MEAN, STD)


def build_student(teacher: FrozenTeacher) -> nn.Module:
    """The teacher with a changed head, so that they agree on some images."""
    student = copy.deepcopy(teacher.model)
    torch.manual_seed(77)
    with torch.no_grad():
        student.fc.weight.add_(torch.randn_like(student.fc.weight) * 1.0)
    return student


def build(
    method: str,
    settings: dict[str, Any],
    *,
    seed: int = 1,
    temperature: float | None = 20.0,
    teacher: FrozenTeacher | None = None,
    collected: SyntheticBatch | None = None,
) -> Any:
    """A new synthesizer of any method that plays against a student, as a run builds it."""
    entry = METHODS.get(method)
    teacher = build_teacher() if teacher is None else teacher
    parts = SynthesisParts(TASK, teacher, build_student(teacher), collected)
    context = SynthesisContext("inversion-0", seed, 3, temperature, bf16=False)
    return entry.build(entry.config.model_validate(settings), parts, context, torch.device("cpu"))


def make(
    method: str = "fast", *, seed: int = 1, warmup: int = 3, temperature: float = 20.0, device: str = "cpu", **settings: Any
) -> FastSynthesizer:
    """A new synthesizer of FastDFKD or SSD-KD."""
    config = {"fast": FastConfig, "ssdkd": SSDKDConfig}[method](**{**SMALL, **settings})
    teacher = build_teacher()
    student = build_student(teacher)
    generator = build_generator(config.generator, SHAPE, config.latent_dim, config.base_channels)
    context = SynthesisContext("inversion-0", seed, warmup, temperature, bf16=False)
    synthesizer = {"fast": FastSynthesizer, "ssdkd": SSDKDSynthesizer}[method]
    parts = SynthesisParts(TASK, teacher, student)
    return synthesizer(config, parts, generator, context, torch.device(device))


def weights_of(synthesizer: FastSynthesizer) -> dict[str, torch.Tensor]:
    return copy.deepcopy(dict(synthesizer.generator.named_parameters()))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def hand_over(one: Any, other: Any) -> None:
    """Loads the state of one synthesizer into another, as a checkpoint does."""
    packed = io.BytesIO()
    torch.save(one.state_dict(), packed)
    packed.seek(0)
    other.load_state_dict(torch.load(packed, weights_only=True))


def assert_alike(one: Any, other: Any) -> None:
    """Both make the same next two batches, to the bit."""
    for _ in range(2):
        expected, found = one.step(summary()), other.step(summary())
        np.testing.assert_array_equal(found.images, expected.images)
        assert found.metrics == expected.metrics
