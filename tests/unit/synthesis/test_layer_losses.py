"""What several methods share: the relative BN loss, the patch-similarity loss, balanced targets and GapSSG's class loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_synthesis import CLASSES, MEAN, SHAPE, STD, assert_alike, build, build_student, build_teacher, hand_over, summary
from torch import nn
from torch.nn import functional as F

from raydfkd.errors import TeacherError
from raydfkd.losses.inversion import gap_aware_loss
from raydfkd.losses.patches import patch_similarity_loss
from raydfkd.models.teachers.attention_patches import AttentionPatches
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.synthesis.fast import FastConfig

NETWORK: dict[str, Any] = {"base_channels": 4, "latent_dim": 6}
SMALL: dict[str, dict[str, Any]] = {
    "fast": {"batch_size": 12, "steps_per_batch": 1, **NETWORK},
    "ssdkd": {"batch_size": 12, "steps_per_batch": 1, **NETWORK},
    "cmi": {"batch_size": 12, "steps_per_batch": 1, "contrastive_weight": 0, **NETWORK},
    "deep_inversion": {"batch_size": 12, "steps_per_batch": 1, "shift": 0},
    "dfq": {"batch_size": 12, "generator_batch_size": 12, **NETWORK},
}
TARGETED = [name for name in SMALL if name != "dfq"]


def make(method: str, seed: int = 1, teacher: FrozenTeacher | None = None, **settings: Any) -> Any:
    return build(method, {"method": method, **SMALL[method], **settings}, seed=seed, teacher=teacher)


def vision_transformer() -> FrozenTeacher:
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(8, 2, 2, 2, 8, 16, num_classes=CLASSES)
    network.conv_proj = nn.Conv2d(1, 8, 2, 2)
    nn.init.normal_(network.heads.head.weight)
    network.fc = network.heads.head  # the student of these tests is a copy with this layer changed
    return FrozenTeacher(network, CLASSES, SHAPE, MEAN, STD, classifier_head="heads.head")


@pytest.mark.parametrize("method", SMALL)
def test_relative_the_bn_loss_is_one_on_the_first_images(method: str) -> None:
    synthesizer = make(method, bn_weight=1.0, bn_relative=True)
    first, plain = synthesizer.step(summary()).metrics, make(method, bn_weight=1.0).step(summary()).metrics
    assert first["bn_loss"] == pytest.approx(1)
    assert plain["bn_loss"] == pytest.approx(1 / first["bn_scale"], rel=1e-5)
    assert "bn_scale" not in plain
    other = make(method, seed=9, bn_weight=1.0, bn_relative=True)
    hand_over(synthesizer, other)
    assert_alike(synthesizer, other)
    assert other.bn_scale == pytest.approx(first["bn_scale"], rel=1e-6)


@pytest.mark.parametrize("method", SMALL)
def test_patches_of_a_vision_transformer_are_told_apart(method: str) -> None:
    """The loss has the term, the sum over attention layers, in all of these methods; BatchNorm there is none."""
    settings: dict[str, Any] = {"bn_weight": 0, "adversarial_weight": 0}
    if method == "deep_inversion":
        settings = {"bn_weight": 0}
    with_it = make(method, teacher=vision_transformer(), patch_weight=0.5, **settings).step(summary()).metrics
    without = make(method, teacher=vision_transformer(), **settings).step(summary()).metrics
    assert with_it["loss"] == pytest.approx(without["loss"] + 0.5 * with_it["patch_loss"], rel=1e-4)
    assert "patch_loss" not in without
    with pytest.raises(TeacherError, match="has no attention layer"):
        make(method, patch_weight=1)


def test_the_patch_loss_is_that_of_the_images_the_teacher_saw() -> None:
    teacher = vision_transformer()
    made = make("deep_inversion", teacher=teacher, bn_weight=0, patch_weight=1.0).step(summary())
    patches, start = AttentionPatches(teacher), torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(1))
    with patches.capture():
        teacher.model(start)
    expected = sum(patch_similarity_loss(tokens).item() for tokens in patches.tokens)
    assert made.metrics["patch_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", TARGETED)
def test_balanced_targets_are_of_every_class_equally_often(method: str) -> None:
    synthesizer = make(method, batch_size=23, balanced_targets=True)
    totals = np.zeros(CLASSES, int)
    for _ in range(8):
        counts = np.bincount(synthesizer.step(summary()).targets, minlength=CLASSES)
        assert set(counts) == {2, 3}
        totals += counts
    assert len(set(totals)) > 1, "what does not divide evenly goes to classes drawn at random"


def test_gap_aware_the_class_loss_follows_its_formula() -> None:
    teacher = build_teacher()
    student = build_student(teacher).eval()
    start = torch.randn(12, *SHAPE, generator=(random := torch.Generator().manual_seed(1)))
    targets = torch.randint(0, CLASSES, (12,), generator=random)
    with torch.no_grad():
        t, s = teacher.model(start), student(start)
    gap = (t.softmax(1) - s.softmax(1)).abs().max(1).values.mean()
    expected = (1 - torch.exp(-gap)) * (F.cross_entropy((t - s) / 2, targets) + 0.2 * F.cross_entropy(t + s, targets))
    made = make("deep_inversion", class_loss="gap_aware").step(summary())
    assert made.metrics["one_hot_loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert gap_aware_loss(s, t, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    assert gap_aware_loss(t, t, targets).item() == 0, "where they agree nothing is left to gain"


def test_gap_aware_the_weight_of_the_gap_has_no_gradient() -> None:
    t = torch.tensor([[2.0, -1.0, 0.5]], requires_grad=True)
    s, target = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([1])
    gap_aware_loss(s, t, target).backward()
    share = 1 - torch.exp(-(t.detach().softmax(1) - s.softmax(1)).abs().max())
    one_hot = F.one_hot(target, 3)
    expected = share * (0.5 * ((t.detach() / 2).softmax(1) - one_hot) + 0.2 * (t.detach().softmax(1) - one_hot))
    torch.testing.assert_close(t.grad, expected)


@pytest.mark.parametrize("method", TARGETED)
def test_every_targeted_method_takes_it(method: str) -> None:
    settings = {} if method == "deep_inversion" else {"adversarial_weight": 0}
    made = make(method, class_loss="gap_aware", **settings).step(summary()).metrics
    plain = make(method, **settings).step(summary()).metrics
    assert made["one_hot_loss"] != pytest.approx(plain["one_hot_loss"], rel=0.01)
    assert set(made) == set(plain), "the student is looked at, and no adversarial term comes with it"


def test_nothing_to_be_relative_to_is_refused() -> None:
    with pytest.raises(ValidationError, match="bn_weight 0 does not use bn_relative: leave it out"):
        FastConfig(bn_weight=0, bn_relative=True)
