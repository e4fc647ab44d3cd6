"""DiffAugment (Zhao et al., NeurIPS 2020, arXiv 2006.10738): what a discriminator sees of real and synthetic images alike.

Every operation is differentiable and draws for each image. The published code takes images in [-1,1]; here they are in [0,1],
so the brightness has half the published range, and what comes in from outside or is cut out is 0.5, the published 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from raydfkd.augment.crop_flip import random_crop_flip
from raydfkd.augment.erasing import fill_boxes

Operation = Literal["color", "translation", "cutout"]

BRIGHTNESS = 0.25
"""Greatest change of all values of an image."""
GREY = 0.5


def diff_augment(images: Tensor, policy: Sequence[Operation], generator: torch.Generator) -> Tensor:
    """The operations of ``policy`` in turn; values may leave [0,1], as published.

    Args:
        images: float [B,C,H,W] in [0,1] on any device.
        generator: a CPU generator, so that the draws are the same on every device.
    """
    for operation in policy:
        images = _OPERATIONS[operation](images, generator)
    return images


def random_color(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness plus U(-.25,.25); saturation times U(0,2) about a pixel's mean; contrast times U(.5,1.5) about the image's."""
    return change_color(
        images, torch.rand(3, len(images), generator=generator).to(images.device, non_blocking=True), BRIGHTNESS
    )


def change_color(images: Tensor, draws_3B: Tensor, most: float) -> Tensor:
    """Brightness plus U(-most,most), then saturation and contrast as above, from draws of U(0,1) for each image."""
    brightness, saturation, contrast = (draws.view(-1, 1, 1, 1) for draws in draws_3B)
    images = images + (2 * brightness - 1) * most
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * 2 * saturation
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (0.5 + contrast)


def random_translation(images: Tensor, generator: torch.Generator) -> Tensor:
    """Moves each image by whole pixels, up to an eighth of its shorter side in each direction."""
    return random_crop_flip(images - GREY, round(min(images.shape[2:]) / 8), False, generator) + GREY


def random_cutout(images: Tensor, generator: torch.Generator) -> Tensor:
    """Greys a square of half the shorter side, or the part of it that lies in the image: its centre is any pixel."""
    num, _, height, width = images.shape
    side = (min(height, width) + 1) // 2
    top, left = (
        (torch.randint(length, (num, 1), generator=generator) - side // 2).to(images.device, non_blocking=True)
        for length in (height, width)
    )
    return fill_boxes(images, top, left, side, side, GREY)


_OPERATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "color": random_color,
    "translation": random_translation,
    "cutout": random_cutout,
}
