"""DeepInversion: each step against a plain loop, what is kept, the courses of rate and crops, and the relative BN loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_synthesis import CLASSES, MEAN, SHAPE, STD, assert_alike, build, build_student, build_teacher, hand_over, summary
from torch.nn import functional as F

from raydfkd.losses.inversion import total_variation
from raydfkd.models.teachers.bn_statistics import BatchNormStatistics
from raydfkd.synthesis.deep_inversion import DeepInversionConfig

SMALL: dict[str, Any] = {"method": "deep_inversion", "batch_size": 12, "steps_per_batch": 3, "shift": 0}


def make(seed: int = 1, **settings: Any) -> Any:
    return build("deep_inversion", {**SMALL, **settings}, seed=seed)


def test_equals_a_plain_loop_over_its_published_terms() -> None:
    """Three steps of Adam on normalised pixels, cut to the valid range after each; the last images are rounded and stored."""
    weights = {"bn_weight": 2.0, "first_bn_weight": 3.0, "one_hot_weight": 0.7, "tv_weight": 0.01, "l2_weight": 0.02}
    made = make(**weights, competition_weight=0.5, lr=0.1, betas=(0.5, 0.9), kept_step="last").step(summary())

    teacher, random = build_teacher(), torch.Generator().manual_seed(1)
    student = build_student(teacher).eval().requires_grad_(False)
    pixels = torch.randn(12, *SHAPE, generator=random).requires_grad_()
    targets = torch.randint(0, CLASSES, (12,), generator=random)
    optimizer = torch.optim.Adam([pixels], 0.1, (0.5, 0.9))
    statistics = BatchNormStatistics(teacher)
    for _ in range(3):
        with statistics.capture():
            logits = teacher.model(pixels)
        (first, *others), (first_running, *other_running) = statistics.batch, statistics.running
        norms = [3 * ((first[0] - first_running[0]).norm() + (first[1] - first_running[1]).norm())]
        norms += [(m - mu).norm() + (v - s).norm() for (m, v), (mu, s) in zip(others, other_running, strict=True)]
        p, q = (student(pixels) / 3).softmax(1), (logits / 3).softmax(1)
        middle = ((p + q) / 2).clamp(0.01, 0.99)
        js = sum(0.5 * (middle * (middle.log() - x.clamp(0.01, 0.99).log())).mean() for x in (p, q))
        tv = sum(
            (one - other).norm()
            for one, other in (
                (pixels[..., 1:], pixels[..., :-1]),
                (pixels[..., 1:, :], pixels[..., :-1, :]),
                (pixels[..., 1:, 1:], pixels[..., :-1, :-1]),
                (pixels[..., 1:, :-1], pixels[..., :-1, 1:]),
            )
        )
        loss = 2 * sum(norms) + 0.7 * F.cross_entropy(logits, targets) + 0.01 * tv
        loss = loss + 0.02 * pixels.flatten(1).norm(dim=1).mean() + 0.5 * (1 - js)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            pixels.clamp_(-MEAN[0] / STD[0], (1 - MEAN[0]) / STD[0])
    expected = ((pixels.detach() * STD[0] + MEAN[0]) * 255).round()
    assert made.metrics["loss"] == pytest.approx(loss.item(), rel=1e-3)
    np.testing.assert_allclose(made.images.astype(np.float32), expected.numpy(), atol=1)
    np.testing.assert_array_equal(made.targets, targets)
    assert 0 < (made.images > 0).mean() < 1, "some pixels were cut at black"


def test_the_teacher_comes_to_see_the_targets() -> None:
    made = make(steps_per_batch=150, lr=0.1, bn_weight=0.1).step(summary())
    assert (made.teacher_class == made.targets).mean() >= 0.9
    assert set(made.metrics) == {"loss", "bn_loss", "one_hot_loss", "tv_loss", "l2_loss"}


def test_the_best_steps_images_are_kept_as_they_were() -> None:
    """With a rate at which every step makes it worse, the first images are the best; the last are black or white."""
    destructive: dict[str, Any] = {"lr": 50.0, "steps_per_batch": 4}
    best, last = make(**destructive).step(summary()), make(**destructive, kept_step="last").step(summary())
    assert np.isin(last.images, (0, 255)).mean() > 0.9
    start = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(1))
    expected = ((start * STD[0] + MEAN[0]).clamp(0, 1) * 255).round()
    np.testing.assert_allclose(best.images.astype(np.float32), expected.numpy(), atol=1)


def test_rate_and_crops_take_their_courses() -> None:
    config = DeepInversionConfig.model_validate(
        {"steps_per_batch": 200, "lr_warmup_steps": 100, "lr_schedule": "cosine", "least_area": 0.08}
        | {"crop_curriculum": True, "kept_step": "last"}
    )
    assert [config.rate(step) for step in (0, 49, 99, 100, 150)] == pytest.approx([0.01, 0.5, 1, 1, 0.5])
    assert [config.smallest_part(step) for step in (0, 100, 200)] == pytest.approx([1, 0.54, 0.08])
    fixed = DeepInversionConfig.model_validate({"least_area": 0.08})
    assert (fixed.rate(1999), fixed.smallest_part(0)) == (1, 0.08)
    published = DeepInversionConfig.model_validate({"preset": "imagenet"})
    steps = (0, 99, 100, 1050, 1999, 2000, 2099, 2100, 2550)
    stages = [0.01, 1, 1, 0.5, 0, 0.01, 1, 1, 0.5]
    assert [published.rate(step) for step in steps] == pytest.approx(stages, abs=1e-5)


def test_the_first_steps_show_the_teacher_half_the_size() -> None:
    synthesizer, sizes = make(half_size_steps=2, least_area=0.5, flip=True), []
    synthesizer.teacher.normalization.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    synthesizer.step(summary())
    assert sizes[:3] == [(4, 4), (4, 4), (8, 8)]


def test_the_stage_in_full_size_begins_anew_from_the_images_of_the_other() -> None:
    """Each has an Adam of its own, and the best images are those of the second; pixels' losses see what the teacher sees."""
    settings: dict[str, Any] = {"bn_weight": 0, "tv_weight": 0.3, "l2_weight": 0.2, "lr": 0.1, "steps_per_batch": 5}
    made = make(**settings, half_size_steps=2).step(summary())

    teacher, random = build_teacher(), torch.Generator().manual_seed(1)
    pixels = torch.randn(12, *SHAPE, generator=random).requires_grad_()
    targets = torch.randint(0, CLASSES, (12,), generator=random)
    losses, pictures = [], []
    for half, steps in ((True, 2), (False, 3)):
        optimizer = torch.optim.Adam([pixels], 0.1)
        for _ in range(steps):
            seen = F.avg_pool2d(pixels, 2) if half else pixels
            loss = F.cross_entropy(teacher.model(seen), targets) + 0.3 * total_variation(seen)
            loss = loss + 0.2 * seen.flatten(1).norm(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            pictures.append((pixels.detach() * STD[0] + MEAN[0]).mul(255).round())
            optimizer.step()
            with torch.no_grad():
                pixels.clamp_(-MEAN[0] / STD[0], (1 - MEAN[0]) / STD[0])
    best = 2 + int(np.argmin(losses[2:]))
    assert made.metrics["loss"] == pytest.approx(losses[best], rel=1e-4)
    np.testing.assert_allclose(made.images.astype(np.float32), pictures[best].clamp(0, 255).numpy(), atol=1)


def test_colours_of_views_are_scaled_and_moved_in_normalised_units() -> None:
    synthesizer = make(color_shift=1.0)
    images = torch.rand(12, *SHAPE)
    view = synthesizer._view(images, 0, 0)
    before, after = (images - MEAN[0]) / STD[0], (view - MEAN[0]) / STD[0]
    scales, offsets = [], []
    for x, y in zip(before.flatten(1), after.flatten(1), strict=True):
        (scale, offset), *_ = torch.linalg.lstsq(torch.stack([x, torch.ones_like(x)], 1), y)
        torch.testing.assert_close(y, scale * x + offset, atol=1e-4, rtol=1e-4)
        scales.append(scale.log().item())
        offsets.append(offset.item())
    for drawn in (scales, offsets):
        assert -1 <= min(drawn) < -0.2, "uniform within plus and minus one, each image for itself"
        assert 0.2 < max(drawn) <= 1


def test_relative_the_bn_loss_is_one_on_the_first_images_of_any_teacher() -> None:
    synthesizer = make(bn_relative=True, bn_weight=1.0, one_hot_weight=0, steps_per_batch=1)
    first, second = synthesizer.step(summary()).metrics, synthesizer.step(summary()).metrics
    assert first["bn_loss"] == pytest.approx(1)
    assert second["bn_scale"] == first["bn_scale"], "its scale stays"
    plain = make(steps_per_batch=1).step(summary()).metrics
    assert plain["bn_loss"] == pytest.approx(1 / first["bn_scale"], rel=1e-5)


def test_a_restored_synthesizer_goes_on_bit_for_bit() -> None:
    settings: dict[str, Any] = {"bn_relative": True, "bn_weight": 3.0, "shift": 2, "flip": True}
    one, other = make(**settings), make(seed=9, **settings)
    one.step(summary())
    hand_over(one, other)
    assert_alike(one, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"half_size_steps": 3}, "half_size_steps 3 leaves no step of steps_per_batch 3 in full size: lower it"),
        ({"least_area": 0.5, "crop_curriculum": True}, "choose kept_step last"),
        ({"crop_curriculum": True, "kept_step": "last"}, "least_area 1 does not use crop_curriculum: leave it out"),
        ({"bn_weight": 0, "bn_relative": True}, "bn_weight 0 does not use bn_relative: leave it out"),
    ],
)
def test_settings_that_undo_one_another_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DeepInversionConfig.model_validate({**SMALL, **settings})
