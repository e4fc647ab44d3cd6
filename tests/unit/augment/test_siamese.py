"""Differentiable siamese augmentation: one draw changes two batches in the same way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raydfkd.augment.config import SIAMESE_OPERATIONS as OPERATIONS
from raydfkd.augment.config import SiameseOperation
from raydfkd.augment.siamese import SiameseDraw, draw_siamese, siamese_augment


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(num: int, side: int = 16) -> Tensor:
    return torch.randn(num, 3, side, side, generator=rng(5))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_shared_draw_changes_every_image_as_it_changes_it_alone(operation: SiameseOperation) -> None:
    images = pictures(4)
    draw = draw_siamese(rng(1), operations=(operation,))
    together = siamese_augment(images, draw)
    alone = torch.cat([siamese_augment(image[None], draw) for image in images])
    torch.testing.assert_close(together, alone)
    own = SiameseDraw(operation, torch.rand(4, 3, generator=rng(2)))
    changed = siamese_augment(images, own)
    for number in range(4):
        one = siamese_augment(images[number : number + 1], SiameseDraw(operation, own.values[number : number + 1]))
        torch.testing.assert_close(changed[number : number + 1], one)


def test_all_operations_are_drawn_equally_often() -> None:
    generator = rng()
    counts = torch.tensor([sum(draw_siamese(generator).operation == name for _ in range(300)) for name in OPERATIONS])
    assert int(counts.min()) > 18  # 50 expected, give or take five standard deviations
    assert int(counts.max()) < 82


def test_crop_moves_by_whole_pixels_up_to_an_eighth_and_brings_in_the_mean_colour() -> None:
    images = pictures(200)
    moved = siamese_augment(images, SiameseDraw("crop", torch.rand(200, 3, generator=rng())))
    shifts = set()
    for image, other in zip(images, moved, strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        found = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if torch.allclose(padded[:, dy : dy + 16, dx : dx + 16], other, atol=1e-4)
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) == 25


def test_cutout_blanks_the_part_in_the_image_of_a_square_of_half_the_side() -> None:
    images = torch.ones(500, 1, 16, 16)
    cut = siamese_augment(images, SiameseDraw("cutout", torch.rand(500, 3, generator=rng())))
    for image in cut[:, 0]:
        rows, columns = (image == 0).any(1).sum(), (image == 0).any(0).sum()
        assert 4 <= int(rows) <= 8
        assert 4 <= int(columns) <= 8
        assert int((image == 0).sum()) == int(rows * columns)
    assert int((cut[:, 0] == 0).all(2).any(1).sum()) == 0


def test_flip_mirrors_half_of_the_draws_and_scale_and_rotation_stay_in_range() -> None:
    images = pictures(1000, 4)
    flipped = siamese_augment(images, SiameseDraw("flip", torch.rand(1000, 3, generator=rng())))
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert bool((mirrored | kept).all())
    assert 430 < int(mirrored.sum()) < 570
    ramp = torch.linspace(-1, 1, 17).expand(1, 1, 17, 17).contiguous()  # value: place from left to right
    widest = siamese_augment(ramp, SiameseDraw("scale", torch.tensor([[1.0, 1.0, 0.0]])))
    torch.testing.assert_close(widest[0, 0, 8, 6:11], 1.2 * ramp[0, 0, 8, 6:11], atol=1e-4, rtol=0)
    steepest = siamese_augment(ramp, SiameseDraw("rotate", torch.tensor([[1.0, 0.0, 0.0]])))
    slopes = steepest[0, 0, 8, 9] - steepest[0, 0, 8, 7], steepest[0, 0, 9, 8] - steepest[0, 0, 7, 8]
    angle = torch.rad2deg(torch.atan2(slopes[1].abs(), slopes[0]))
    torch.testing.assert_close(angle, torch.tensor(15.0), atol=0.01, rtol=0)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradients_reach_the_images(operation: SiameseOperation) -> None:
    images = pictures(2, 8).double().requires_grad_()
    draw = SiameseDraw(operation, torch.full((1, 3), 0.3, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda one: siamese_augment(one, draw), (images,))
