"""DAFL, DFAD, DDAD, DFQ and ZSKT: each generator's step against its formula, and batches of fresh images."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_synthesis import SHAPE, assert_alike, build, build_student, build_teacher, hand_over, summary
from torch import Tensor
from torch.nn import functional as F

from raydfkd.models.generators.memory_networks import NormalizedGenerator
from raydfkd.models.teachers.bn_statistics import BatchNormStatistics
from raydfkd.synthesis.methods import METHODS

SMALL: dict[str, Any] = {"batch_size": 40, "generator_batch_size": 16, "base_channels": 4, "latent_dim": 6}


def make(method: str, seed: int = 1, **settings: Any) -> Any:
    return build(method, {"method": method, **SMALL, **settings}, seed=seed)


def certainty(t: Tensor) -> Tensor:
    return F.cross_entropy(t, t.argmax(1))


def imbalance(t: Tensor) -> Tensor:
    """To base e, as in the re-implementations."""
    mean = t.softmax(1).mean(0)
    return (mean * mean.log()).sum()


def kl(s: Tensor, t: Tensor) -> Tensor:
    return F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean")


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "dafl": lambda s, t, features, bn: certainty(t) + 20 * imbalance(t) - 1e-3 * features.abs().mean(),
    "dfad": lambda s, t, features, bn: -(t - s).abs().mean(),
    "ddad": lambda s, t, features, bn: 0.05 * certainty(t) + 5 / math.log(10) * imbalance(t) + bn - (t - s).abs().mean(),
    "dfq": lambda s, t, features, bn: certainty(t) + 20 * imbalance(t) + bn - kl(s, t),
    "zskt": lambda s, t, features, bn: -kl(s, t),
}
"""By student's and teacher's logits, the teacher's features and L_BN."""


@pytest.mark.parametrize("method", LOSSES)
def test_a_step_is_one_of_adam_on_the_methods_loss(method: str) -> None:
    synthesizer = make(method)
    generator = copy.deepcopy(synthesizer.generator)
    made = synthesizer.step(summary())

    teacher, random = build_teacher(), torch.Generator().manual_seed(1)
    student, statistics = build_student(teacher).eval(), BatchNormStatistics(teacher)
    images = generator(torch.randn(16, 6, generator=random))
    with statistics.capture():
        t, features = teacher.forward_features(images)
    bn = sum((m - mu).norm() + (v - s).norm() for (m, v), (mu, s) in zip(statistics.batch, statistics.running, strict=True))
    loss = LOSSES[method](student(teacher.normalize(images)), t, features, bn)
    optimizer = torch.optim.Adam(generator.parameters(), 1e-3, (0.5, 0.999))
    loss.backward()
    optimizer.step()
    assert made.metrics["loss"] == pytest.approx(loss.item(), rel=1e-4, abs=1e-6)
    # Adam's first step moves each weight by its rate, whatever the gradient's size: signs that rounding decides are few.
    pairs = list(zip(generator.parameters(), synthesizer.generator.parameters(), strict=True))
    off = torch.cat([(one - other).abs().flatten() > 1e-4 for one, other in pairs])
    assert off.float().mean() < 0.01


@pytest.mark.parametrize("method", LOSSES)
def test_a_batch_is_of_fresh_images_without_targets(method: str) -> None:
    synthesizer, sizes = make(method, steps_per_batch=2), []
    forward = synthesizer.generator.forward
    synthesizer.generator.forward = lambda z: (sizes.append((len(z), torch.is_grad_enabled())), forward(z))[1]
    made = synthesizer.step(summary())
    assert sizes == [(16, True), (16, True), (14, False), (13, False), (13, False)]
    assert (made.images.shape, made.images.dtype) == ((40, *SHAPE), np.uint8)
    assert len(np.unique(made.images.reshape(40, -1), axis=0)) == 40
    assert (made.targets == -1).all()
    assert (made.source, made.generator_id) == (method, "inversion-0")
    assert all(parameter.grad is None for parameter in synthesizer.student.parameters())


def test_the_generator_may_be_dafls_own() -> None:
    """Layer for layer, at its published size; its images are in the teacher's units, here mapped back to [0,1]."""
    with torch.device("meta"):
        network = NormalizedGenerator((3, 32, 32), 1000, 64, [0.5] * 3, [0.2] * 3, spectral=False)
    assert sum(p.numel() for p in network.parameters()) == 8_423_939
    synthesizer = make("dafl", generator="normalized")
    assert type(synthesizer.generator) is NormalizedGenerator
    before = copy.deepcopy(synthesizer.generator.state_dict())
    made = synthesizer.step(summary())
    assert made.images.shape == (40, *SHAPE)
    assert not torch.equal(synthesizer.generator.to_image.weight, before["to_image.weight"])


@pytest.mark.parametrize("kind", ["kl", "l1", "log_l1"])
def test_student_and_teacher_are_driven_apart(kind: str) -> None:
    """On images made before and after 60 steps, by their mean L1."""
    synthesizer = make("zskt", adversarial_distance=kind, steps_per_batch=60, generator_lr=0.01, max_grad_norm=5.0)

    def apart() -> float:
        with torch.no_grad():
            images = synthesizer.generator(torch.randn(200, 6, generator=torch.Generator().manual_seed(3)))
            gap = synthesizer.student(synthesizer.teacher.normalize(images)) - synthesizer.teacher(images)
        return float(gap.abs().mean())

    before = apart()
    synthesizer.step(summary())
    assert apart() > 1.3 * before


@pytest.mark.parametrize("method", LOSSES)
def test_a_restored_synthesizer_goes_on_bit_for_bit(method: str) -> None:
    one, other = make(method), make(method, seed=9)
    one.step(summary())
    hand_over(one, other)
    assert_alike(one, other)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("dfad", {"adversarial_weight": 0}, "are all 0, so the generator learns nothing: raise one"),
        ("dafl", {"adversarial_distance": "l1"}, "adversarial_weight 0 does not use adversarial_distance: leave it out"),
    ],
)
def test_a_generator_without_a_loss_is_refused(method: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        METHODS.get(method).config.model_validate({"method": method, **settings})
