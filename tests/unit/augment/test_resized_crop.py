"""Random resized crop on pictures whose crops can be computed: ramps and constants."""

from __future__ import annotations

import torch
from torch import Tensor

from raydfkd.augment import random_resized_crop_flip

SIDE = 16


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramps(num: int) -> Tensor:
    """Channel 0 is each pixel's x, channel 1 its y."""
    places = torch.arange(SIDE, dtype=torch.float32)
    return torch.stack([places.expand(SIDE, SIDE), places[:, None].expand(SIDE, SIDE)]).expand(num, 2, SIDE, SIDE)


def steps(views: Tensor) -> tuple[Tensor, Tensor]:
    """How many pixels of the image one pixel of each view is wide and high, by the middle of the ramps."""
    middle = slice(SIDE // 4, 3 * SIDE // 4)
    inner = views[:, :, middle, middle]
    return inner[:, 0].diff(dim=2).mean((1, 2)), inner[:, 1].diff(dim=1).mean((1, 2))


def test_parts_have_the_areas_and_ratios_asked_for_and_lie_in_the_image() -> None:
    views = random_resized_crop_flip(ramps(4000), 0.25, True, rng())
    wide, high = steps(views)
    area, ratio = wide.abs() * high, wide.abs() / high
    assert (high > 0).all()
    assert (wide.abs() <= 1 + 1e-5).all()
    assert 0.25 - 1e-4 <= area.min() < 0.27
    assert area.max() > 0.9
    free = (wide.abs() < 0.999) & (high < 0.999)  # not cut to the image's side
    assert ratio[free].min() >= 3 / 4 - 1e-4
    assert ratio[free].max() <= 4 / 3 + 1e-4
    assert views.min() >= 0
    assert views.max() <= SIDE - 1
    assert 0.45 < (wide < 0).float().mean() < 0.55
    centres = views[:, 0].mean((1, 2))
    assert centres.min() < 5
    assert centres.max() > 10


def test_without_flip_nothing_is_mirrored() -> None:
    assert (steps(random_resized_crop_flip(ramps(50), 0.25, False, rng()))[0] > 0).all()


def test_no_darkness_comes_in_at_the_edges() -> None:
    views = random_resized_crop_flip(torch.ones(200, 1, SIDE, SIDE), 0.25, True, rng())
    torch.testing.assert_close(views, torch.ones_like(views))


def test_the_gradient_reaches_the_image() -> None:
    images = torch.rand(3, 1, SIDE, SIDE, generator=rng(), requires_grad=True)
    views = random_resized_crop_flip(images, 0.25, True, rng())
    views.sum().backward()
    # Bilinear weights of a view add up to 1 a pixel.
    assert abs(images.grad.sum().item() - views.numel()) < 1e-1
