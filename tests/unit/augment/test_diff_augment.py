"""DiffAugment on pictures for which each operation's outcome is known."""

from __future__ import annotations

import torch
from torch import Tensor

from raydfkd.augment.diff_augment import diff_augment, random_color, random_cutout, random_translation


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(num: int, side: int = 16) -> Tensor:
    return torch.rand(num, 3, side, side, generator=rng(5))


def test_color_has_the_published_ranges() -> None:
    images = pictures(2000, side=4)
    changed = random_color(images, rng())
    brightness = (changed - images).mean((1, 2, 3))  # neither of the others moves an image's mean
    assert -0.25 <= brightness.min() < -0.24
    assert 0.24 < brightness.max() <= 0.25

    def spread(x: Tensor, of: Tensor) -> Tensor:
        return (x - of).square().sum((1, 2, 3)).sqrt()

    grey, changed_grey = images.mean(1, keepdim=True), changed.mean(1, keepdim=True)
    contrast = spread(changed_grey, changed.mean((1, 2, 3), keepdim=True)) / spread(grey, images.mean((1, 2, 3), keepdim=True))
    saturation = spread(changed, changed_grey) / spread(images, grey) / contrast
    assert 0.5 - 1e-4 <= contrast.min() < 0.52
    assert 1.48 < contrast.max() <= 1.5 + 1e-4
    assert saturation.min() < 0.05
    assert 1.95 < saturation.max() <= 2 + 1e-3


def test_translation_moves_by_whole_pixels_and_brings_in_grey() -> None:
    images = pictures(300)
    moved = random_translation(images, rng())
    framed = torch.nn.functional.pad(images - 0.5, [2] * 4) + 0.5
    for image, view in zip(framed, moved, strict=True):
        places = [
            (y, x) for y in range(5) for x in range(5) if torch.allclose(image[:, y : y + 16, x : x + 16], view, atol=1e-6)
        ]
        assert len(places) == 1
    assert (moved == 0.5).any()


def test_cutout_greys_one_square_of_half_the_side() -> None:
    cut = random_cutout(pictures(500), rng()) == 0.5
    assert (cut.sum(1).remainder(3) == 0).all(), "all channels alike"
    areas = cut[:, 0].sum((1, 2))
    assert areas.max() == 64
    assert areas.min() == 16, "a centre in the corner leaves a quarter, and its first pixel belongs to the lower half"
    rows, columns = cut[:, 0].any(2).sum(1), cut[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, areas), "a rectangle"


def test_a_policy_is_its_operations_in_turn_and_carries_gradient() -> None:
    images = pictures(4).requires_grad_()
    seen = diff_augment(images, ("cutout", "color"), rng(3))
    generator = rng(3)
    torch.testing.assert_close(seen, random_color(random_cutout(images, generator), generator))
    seen.sum().backward()
    assert (images.grad.abs().amax((1, 2, 3)) > 0).all()
    assert diff_augment(images, (), rng()) is images
