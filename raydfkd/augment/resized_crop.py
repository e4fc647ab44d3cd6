"""Random resized crop (Szegedy et al. 2015, arXiv 1409.4842) with horizontal flip, of a whole batch at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raydfkd.augment import geometry

RATIOS = (3 / 4, 4 / 3)
"""Least and greatest width / height of the part that is cut out, for a square image."""


def random_resized_crop_flip(images_BCHW: Tensor, least_area: float, flip: bool, generator: torch.Generator) -> Tensor:
    """Enlarges a random part of each image to the whole size and mirrors about half of them; differentiable.

    A part has between ``least_area`` and all of the image's area, and an aspect ratio drawn evenly on a log scale. A side that
    would be longer than the image's is cut to it, where torchvision draws again, up to ten times.

    Args:
        images_BCHW: floating, on any device.
        least_area: share of the image in (0,1].
        flip: mirror each image with probability 1/2.
        generator: a CPU generator, so that the draws are the same on every device.
    """
    num, _, height, width = images_BCHW.shape
    area_B = torch.empty(num).uniform_(least_area, 1, generator=generator)
    ratio_B = torch.empty(num).uniform_(math.log(RATIOS[0]), math.log(RATIOS[1]), generator=generator).exp_()
    # Shares of the image's width and height.
    size_B2 = torch.stack([(area_B * ratio_B).sqrt(), (area_B / ratio_B).sqrt()], 1).clamp_(max=1)
    places_B2 = torch.rand(num, 2, generator=generator)
    signs_B = torch.ones(num)
    if flip:
        signs_B = torch.where(torch.rand(num, generator=generator) < 0.5, -1.0, 1.0)
    matrices = torch.zeros(num, 2, 3)
    matrices[:, 0, 0], matrices[:, 1, 1] = signs_B * size_B2[:, 0], size_B2[:, 1]
    # From the image's centre: a part of full size stays there, a smaller one moves by up to half of what it leaves free.
    matrices[:, :, 2] = (places_B2 - 0.5) * (1 - size_B2) * torch.tensor([width, height])
    return geometry.affine(images_BCHW, matrices.to(images_BCHW.device), padding="border")
