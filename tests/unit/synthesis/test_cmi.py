"""The CMI synthesizer against a step written by hand, and what it promises of the bank, the head, state and seeds."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_synthesis import SHAPE, TASK, assert_alike, build, build_teacher, hand_over, summary
from torch import Tensor, nn
from torch.nn import functional as F

from raydfkd.augment import random_crop_flip, random_resized_crop_flip
from raydfkd.errors import TeacherError
from raydfkd.models import flat_weights
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.synthesis.cmi import CMIConfig, CMISynthesizer, FeatureBank
from raydfkd.synthesis.method import SynthesisContext, SynthesisParts

SMALL: dict[str, Any] = {
    "batch_size": 12,
    "base_channels": 4,
    "latent_dim": 6,
    "crop_padding": 1,
    "steps_per_batch": 3,
    "projected_dim": 8,
    "bank_size": 40,
    "num_negatives": 20,
    "lr": 0.01,
    # For these networks the term is small; this makes it as large as the others.
    "adversarial_weight": 300.0,
}
WITHOUT = {"contrastive_weight": 0, "projected_dim": 256, "bank_size": 40_960, "num_negatives": 4096}
"""The contrastive loss off, and what it would use at its defaults."""


def make(seed: int = 1, **settings: Any) -> CMISynthesizer:
    return build("cmi", {"method": "cmi", **SMALL, **settings}, seed=seed)


def by_hand(synthesizer: CMISynthesizer) -> dict[str, Tensor]:
    """The terms of the first step of the next batch, with only the draws in common."""
    config, rng = synthesizer.config, torch.Generator()
    rng.set_state(synthesizer.rng.get_state())
    generator = copy.deepcopy(synthesizer.generator)
    for layer in generator.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
            drawn = torch.empty(layer.weight.shape).normal_(float(isinstance(layer, nn.BatchNorm2d)), 0.02, generator=rng)
            layer.weight.data = drawn
            if layer.bias is not None:
                layer.bias.data.zero_()
    latents = torch.randn(config.batch_size, config.latent_dim, generator=rng)
    targets = torch.sort(torch.randint(0, 10, (config.batch_size,), generator=rng))[0]
    images = generator(latents)
    teacher, student = synthesizer.teacher, synthesizer.student
    seen: list[Tensor] = []
    norms = [layer for layer in teacher.modules() if isinstance(layer, nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(lambda layer, args: seen.append(args[0])) for layer in norms]

    def look(view: Tensor) -> tuple[Tensor, Tensor]:
        seen.clear()
        logits = teacher.model(view)
        return logits, torch.cat([x.mean((2, 3)) for x in seen], 1)

    view = teacher.normalize(random_crop_flip(images, config.crop_padding, config.flip, rng))
    logits, global_view = look(view)
    bn = sum(
        (layer.running_mean - x.mean((0, 2, 3))).norm() + (layer.running_var - x.var((0, 2, 3), unbiased=False)).norm()
        for x, layer in zip(seen, norms, strict=True)
    )
    _, local_view = look(teacher.normalize(random_resized_crop_flip(images, config.least_area, config.flip, rng)))
    for hook in hooks:
        hook.remove()
    guess = student(view)
    agree = (guess.argmax(1) == logits.argmax(1)).float()
    adversarial = -(agree * F.kl_div(guess.log_softmax(1), logits.softmax(1), reduction="none").sum(1)).mean()
    bank = synthesizer.contrast.bank
    kept = bank._rows[torch.randperm(len(bank), generator=rng)[: config.num_negatives]].float()
    layers = synthesizer.contrast.head.layers
    project = lambda x: F.normalize(layers[2](F.relu(layers[0](x))), dim=1)  # noqa: E731
    locals_, globals_ = project(torch.cat([local_view, kept[:, 0]])), project(torch.cat([global_view, kept[:, 1]]))
    losses = -(locals_ @ globals_.T / config.contrastive_temperature).log_softmax(1).diagonal()
    current, earlier = losses[: config.batch_size], losses[config.batch_size :]
    contrast = current.mean() + (earlier.mean() if len(earlier) else 0)
    terms = {"bn": bn, "one_hot": F.cross_entropy(logits, targets), "adversarial": adversarial, "contrastive": contrast}
    terms["sum"] = sum(getattr(config, f"{name}_weight") * term for name, term in terms.items())
    return terms


@pytest.mark.parametrize("earlier", [0, 2])
def test_the_first_steps_loss_is_the_papers(earlier: int) -> None:
    synthesizer = make(steps_per_batch=1)
    for _ in range(earlier):
        synthesizer.step(summary())
    expected = by_hand(synthesizer)
    metrics = synthesizer.step(summary()).metrics
    assert metrics["loss"] == pytest.approx(expected.pop("sum").item(), rel=2e-3)
    assert metrics["contrastive_loss"] == pytest.approx(expected["contrastive"].item(), rel=1e-5)
    assert {name: metrics[f"{name}_loss"] for name in expected} == pytest.approx(
        {name: term.item() for name, term in expected.items()}, rel=2e-3
    )


def test_every_batch_begins_with_a_generator_drawn_anew() -> None:
    synthesizer = make()
    for parameter in synthesizer.generator.parameters():
        parameter.data.fill_(float("nan"))
    one = synthesizer.step(summary())
    assert np.isfinite(list(one.metrics.values())).all()
    assert not np.array_equal(one.images, synthesizer.step(summary()).images)


def test_generator_and_latents_learn_together() -> None:
    """On one batch of latents the loss falls."""
    plain = {"adversarial_weight": 0.0, "crop_padding": 0, "flip": False, **WITHOUT}
    first = make(steps_per_batch=1, **plain).step(summary()).metrics["loss"]
    last = make(steps_per_batch=40, **plain).step(summary()).metrics["loss"]
    assert last < 0.7 * first


def test_a_worse_last_step_is_not_what_is_stored() -> None:
    plain = {"adversarial_weight": 0.0, "crop_padding": 0, "flip": False, **WITHOUT, "lr": 50.0}
    first, more = make(steps_per_batch=1, **plain).step(summary()), make(steps_per_batch=3, **plain).step(summary())
    np.testing.assert_array_equal(more.images, first.images)
    assert more.metrics["loss"] == pytest.approx(first.metrics["loss"], rel=1e-6)


def test_the_head_learns_and_teacher_and_student_do_not() -> None:
    synthesizer = make()
    student, head = flat_weights(synthesizer.student), flat_weights(synthesizer.contrast.head)
    synthesizer.step(summary())
    assert not np.array_equal(flat_weights(synthesizer.contrast.head), head)
    np.testing.assert_array_equal(flat_weights(synthesizer.student), student)
    assert synthesizer.teacher.state_sha256() == build_teacher().state_sha256()
    assert all(p.grad is None for p in (*synthesizer.teacher.parameters(), *synthesizer.student.parameters()))


def test_the_bank_gets_each_batch_once() -> None:
    synthesizer = make()
    for done in (1, 2, 3, 4):
        synthesizer.step(summary())
        assert len(synthesizer.contrast.bank) == min(40, 12 * done)


def test_the_bank_keeps_the_newest_and_draws_each_once() -> None:
    bank = FeatureBank(5, 1, torch.device("cpu"))
    rows = torch.arange(12, dtype=torch.float32)[:, None, None].expand(12, 2, 1)
    for first, last, held in ((0, 3, {0, 1, 2}), (3, 6, {1, 2, 3, 4, 5}), (6, 12, {7, 8, 9, 10, 11})):
        bank.add(rows[first:last])
        drawn = bank.draw(9, torch.Generator().manual_seed(0))[:, 0, 0].tolist()
        assert sorted(drawn) == sorted(held)
    assert bank.draw(2, torch.Generator()).shape == (2, 2, 1)
    other = FeatureBank(5, 1, torch.device("cpu"))
    other.load_state_dict(bank.state_dict())
    for each in (bank, other):
        each.add(rows[:2])
    assert torch.equal(other.draw(5, torch.Generator().manual_seed(1)), bank.draw(5, torch.Generator().manual_seed(1)))


def test_the_non_adversarial_form_does_not_read_the_student() -> None:
    images = []
    for scale in (1.0, 1.5):
        synthesizer = make(adversarial_weight=0.0)
        synthesizer.load_student(scale * flat_weights(synthesizer.student), 7)
        batch = synthesizer.step(summary())
        assert "adversarial_loss" not in batch.metrics
        assert batch.student_version == 7
        images.append(batch.images)
    np.testing.assert_array_equal(*images)


def test_without_the_contrastive_loss_there_is_no_head() -> None:
    synthesizer = make(**WITHOUT)
    assert synthesizer.contrast is None
    assert set(synthesizer.step(summary()).metrics) == {"loss", "bn_loss", "one_hot_loss", "adversarial_loss"}
    assert set(synthesizer.state_dict()) == {"rng", "bn_scale"}


def test_what_is_stored_is_as_other_methods_store_it() -> None:
    batch = make().step(summary())
    assert (batch.images.shape, batch.images.dtype, len(batch)) == ((12, *SHAPE), np.uint8, 12)
    assert (batch.source, batch.generator_id) == ("cmi", "inversion-0")
    assert batch.priorities.shape == (12,)
    assert (np.diff(batch.targets) >= 0).all()


def test_a_restored_synthesizer_goes_on_bit_for_bit() -> None:
    one, other = make(), make(seed=9)
    one.step(summary())
    other.step(summary())
    hand_over(one, other)
    assert_alike(one, other)


def test_a_seed_repeats_and_global_randomness_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = make(seed=5)
    torch.set_rng_state(before)
    first = one.step(summary())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.testing.assert_array_equal(make(seed=5).step(summary()).images, first.images)
    assert not np.array_equal(make(seed=6).step(summary()).images, first.images)


def test_a_teacher_without_batch_norm_needs_other_layers_and_no_bn_loss() -> None:
    torch.manual_seed(0)
    plain = FrozenTeacher(nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten(), nn.Linear(10, 10)), 10, SHAPE, [0.0], [1.0])
    settings = {"method": "cmi", **SMALL, "bn_weight": 0, "adversarial_weight": 0, "instance_layers": ("2",)}
    parts = SynthesisParts(TASK, plain, copy.deepcopy(plain.model))
    context = SynthesisContext("a-0", 0, 3, None, bf16=False)
    synthesizer = CMISynthesizer.build(CMIConfig.model_validate(settings), parts, context, torch.device("cpu"))
    assert synthesizer.step(summary()).metrics["bn_loss"] == 0
    assert CMIConfig.model_validate({**settings, "instance_layers": None}).reads_batch_norm


def test_layers_of_the_instance_feature_can_be_named() -> None:
    chosen = make(instance_layers=("fc",))
    assert chosen.contrast.head.layers[0].in_features == chosen.teacher.classifier_head.in_features
    assert make().contrast.head.layers[0].in_features == sum(make()._statistics.widths)
    with pytest.raises(TeacherError, match="the teacher has no layer 'conv9' to read features of"):
        make(instance_layers=("conv9",))
