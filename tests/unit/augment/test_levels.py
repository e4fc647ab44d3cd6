"""The levels of Table 5, random erasing, mixup, and the order of all parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from raydfkd.augment import AugmentationConfig, BatchAugmentation, random_crop_flip
from raydfkd.augment.cutmix import cutmix
from raydfkd.augment.erasing import draw_boxes, random_erasing
from raydfkd.augment.mixup import mixup
from raydfkd.augment.randaugment import apply_operations, rand_augment

LEVELS = ["none", "crop_flip", "standard", "high", "extreme"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def byte_batch(num: int = 32, channels: int = 3, side: int = 16) -> Tensor:
    return torch.randint(0, 256, (num, channels, side, side), generator=rng(9)).byte()


def augmented(images: Tensor, seed: int = 1, mean: Tensor | None = None, **settings: Any) -> Tensor:
    return BatchAugmentation(AugmentationConfig(**settings).resolve(), mean)(images, rng(seed))


def test_masks_move_like_their_images_and_get_the_draws_of_images_alone() -> None:
    """Each image says in its red value which class its pixels have; black comes in from outside, where nothing counts."""
    masks = torch.randint(0, 5, (16, 8, 12), generator=rng(0)).short()
    images = torch.stack([masks * 40 + 40, *torch.randint(0, 256, (2, 16, 8, 12), generator=rng(1)).short()], 1).to(torch.uint8)
    parts = AugmentationConfig(invert_probability=0.0, erasing_probability=0.0).resolve(3, True)
    assert parts.moves_whole_pixels
    augmentation = BatchAugmentation(parts)
    view, moved = augmentation.apply_paired(images, masks, augmentation.draw(16, 8, 12, rng(2)))
    assert torch.equal(view, augmentation(images, rng(2)))
    assert moved.dtype == torch.int16
    assert torch.equal(moved, (view[:, 0] * 255 / 40).round().short() - 1)
    assert (moved == -1).any()
    assert not AugmentationConfig(level="standard").resolve().moves_whole_pixels
    assert not AugmentationConfig(elastic_probability=0.5).resolve().moves_whole_pixels


def test_the_levels_are_table_5s() -> None:
    found = {level: AugmentationConfig(level=level).resolve() for level in LEVELS}  # type: ignore[arg-type]
    assert [(p.randaugment_ops, p.randaugment_magnitude) for p in found.values()][2:] == [(2, 14), (4, 14), (8, 30)]
    assert [(p.crop_padding, p.flip) for p in found.values()] == [(0, False)] + [(4, True)] * 4
    assert [(p.elastic_probability, p.invert_probability, p.erasing_probability) for p in found.values()] == [
        (0, 0, 0), (0, 0, 0), (0, 0, 0), (0.5, 0.1, 0), (0.5, 0.1, 0.25),
    ]  # fmt: skip
    assert [p.crop_last for p in found.values()] == [False, False, True, True, True]
    assert all((p.mixup, p.cutmix) == ("none", None) for p in found.values())
    assert [p.randaugment_ops for p in found.values()][:2] == [0, 0]


def test_a_part_that_is_given_goes_before_the_levels() -> None:
    parts = AugmentationConfig(level="extreme", randaugment_ops=0, invert_probability=0.0).resolve(crop_padding=1, flip=False)
    assert (parts.randaugment_ops, parts.invert_probability, parts.crop_padding, parts.flip) == (0, 0.0, 1, False)
    assert parts.erasing_probability == 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"randaugment_magnitude": 9},
            "does not use randaugment_magnitude: leave it out or set randaugment_ops",
        ),
        ({"level": "high", "randaugment_ops": 0, "randaugment_magnitude": 9}, "randaugment_ops 0 does not use"),
        ({"level": "standard", "elastic_alpha": 9.0}, "elastic_probability 0 does not use elastic_alpha"),
        ({"elastic_sigma": 9.0}, "elastic_probability 0 does not use elastic_sigma"),
        ({"randaugment_ops": 1, "randaugment_magnitude": 31}, "less than or equal to 30"),
        ({"mixup": "sample", "cutmix": 1.0}, "mixup and cutmix exclude each other"),
    ],
)
def test_what_would_do_nothing_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AugmentationConfig(**settings)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("level", LEVELS)
def test_a_level_keeps_shape_and_range_and_repeats(level: str, channels: int) -> None:
    images = byte_batch(channels=channels)
    kept = images.clone()
    first, again, other = (augmented(images, seed, level=level) for seed in (1, 1, 2))
    assert torch.equal(images, kept)
    assert first.shape == images.shape
    assert first.dtype == torch.float32
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (level == "none")


def test_none_is_the_image_and_crop_flip_what_it_always_was() -> None:
    images = byte_batch()
    assert torch.equal(augmented(images, level="none"), images.float() / 255)
    assert torch.equal(augmented(images), random_crop_flip(images, 4, True, rng(1)).float() / 255)


@pytest.mark.parametrize("part", ["elastic_probability", "invert_probability", "erasing_probability"])
def test_a_share_of_the_images_is_changed(part: str) -> None:
    images = byte_batch(num=400, side=8).clamp(min=1)
    for share in (0.3, 1.0):
        changed = (augmented(images, level="none", **{part: share}) != images / 255).flatten(1).any(1)
        # 99.9% of 400 draws at 0.3 lie within 0.076; a random rectangle of 8 x 8 pixels may round to nothing.
        assert float(changed.float().mean()) == pytest.approx(share, abs=0.076)


def test_inverting_is_inverting() -> None:
    images = byte_batch()
    torch.testing.assert_close(augmented(images, level="none", invert_probability=1.0), 1 - images / 255)


def test_elastic_settings_reach_the_deformation() -> None:
    images = byte_batch(num=4)
    plain, strong, smooth = (
        augmented(images, level="none", elastic_probability=1.0, **extra)
        for extra in ({}, {"elastic_alpha": 60.0}, {"elastic_sigma": 9.0})
    )
    original = images / 255
    moved = [float((view - original).abs().mean()) for view in (smooth, plain, strong)]
    assert moved[0] < moved[1] < moved[2]


def test_boxes_lie_inside_and_have_the_asked_areas_and_ratios() -> None:
    boxes, fits = draw_boxes(4000, 64, 48, rng())
    top, left, rows, columns = boxes[fits].T.float()
    assert fits.float().mean() > 0.99
    assert (top >= 0).all() and (left >= 0).all()  # noqa: PT018
    assert (top + rows <= 64).all() and (left + columns <= 48).all()  # noqa: PT018
    area, ratio = rows * columns / (64 * 48), rows / columns
    assert float(area.min()) > 0.015
    assert float(area.max()) < 0.36
    assert float(ratio.min()) > 0.25
    assert float(ratio.max()) < 4.0
    assert float(area.mean()) == pytest.approx((0.02 + 0.33) / 2, abs=0.02)  # large and long ones do not fit: a little less
    assert int((top == 0).sum()) > 0
    assert int((top + rows == 64).sum()) > 0


def test_erasing_blackens_one_rectangle() -> None:
    images = torch.ones(200, 2, 16, 16)
    erased = random_erasing(images, 0.5, rng(3))
    black = (erased == 0).all(1)
    assert ((erased == 0).any(1) == black).all()  # all channels alike
    changed = black.flatten(1).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.5, abs=0.12)
    rows, columns = black.any(2).sum(1), black.any(1).sum(1)
    assert torch.equal(black.sum((1, 2)), rows * columns)  # a full rectangle
    assert torch.equal(random_erasing(images, 0.0, rng(3)), images)


def test_mixup_is_the_sum_in_shares_and_the_first_has_the_larger() -> None:
    images = torch.eye(50).view(50, 1, 5, 10)  # image i is 1 in place i alone: what it is made of can be read off
    for per_sample in (False, True):
        mixed = mixup(images, per_sample, rng(2)).view(50, 50)
        own = mixed.diagonal()
        torch.testing.assert_close(mixed.sum(1), torch.ones(50))
        assert int((mixed > 0).sum(1).max()) <= 2
        alone = own == 1  # the permutation left it in its place
        assert (own[~alone] >= 0.5).all()
        assert (len(own[~alone].unique()) > 1) == per_sample


def test_lambda_is_uniform() -> None:
    """max(lambda, 1 - lambda) of a uniform one is uniform on [1/2, 1]: mean 3/4, variance 1/48."""
    images = torch.stack([torch.zeros(20_000), torch.arange(20_000.0)], 1).view(20_000, 2, 1, 1)
    partners = torch.randperm(20_000, generator=rng(6))
    mixed = mixup(images, True, rng(6))[:, 1, 0, 0]
    gap = torch.arange(20_000.0) - partners
    share = ((mixed - partners) / gap)[gap.abs() > 100]
    assert float(share.mean()) == pytest.approx(0.75, abs=0.005)
    assert float(share.var()) == pytest.approx(1 / 48, abs=0.001)


def test_mixup_comes_last() -> None:
    images = byte_batch()
    generator = rng(4)
    expected = mixup(BatchAugmentation(AugmentationConfig(level="extreme").resolve())(images, generator), False, generator)
    assert torch.equal(augmented(images, 4, level="extreme", mixup="batch"), expected)


def test_cutmix_comes_last() -> None:
    images = byte_batch()
    generator = rng(4)
    expected = cutmix(BatchAugmentation(AugmentationConfig(level="high").resolve())(images, generator), 1.0, generator)
    assert torch.equal(augmented(images, 4, level="high", cutmix=1.0), expected)


def test_the_last_crop_has_the_mean_outside_and_the_first_one_zeros() -> None:
    images, mean = torch.full((64, 3, 16, 16), 255).byte(), torch.tensor([0.2, 0.4, 0.6])
    for last, outside in ((True, mean), (False, torch.zeros(3))):
        view = augmented(images, mean=mean, crop_last=last)
        corner = view[(view[:, :, 0, 0] != 1).any(1)][:, :, 0, 0]
        assert 20 < len(corner) < 64
        torch.testing.assert_close(corner, outside.expand_as(corner))


def test_the_mean_is_for_the_last_crop_alone() -> None:
    images = byte_batch()
    plain = augmented(images, level="extreme", crop_last=False)
    assert torch.equal(augmented(images, mean=torch.tensor([0.2, 0.4, 0.6]), level="extreme", crop_last=False), plain)


def test_the_last_crop_is_of_what_the_other_operations_made() -> None:
    """RandAugment, then the crop and flip; and warps bring in the mean."""
    images, mean = byte_batch(num=64), torch.tensor([0.2, 0.4, 0.6])
    generator = rng(4)
    filling = mean.view(1, 3, 1, 1)
    changed = rand_augment(images / 255, 2, 14, generator, filling)
    expected = random_crop_flip(changed - filling, 4, True, generator) + filling
    torch.testing.assert_close(augmented(images, 4, mean, level="standard"), expected, rtol=0, atol=1e-6)
    moved = apply_operations(torch.ones(1, 3, 16, 16), torch.tensor([3]), torch.tensor([1.0]), 30, filling)
    torch.testing.assert_close(moved[0, :, 0, 0], mean)
    assert float(moved[0, :, 0, -1].min()) == 1
