"""Random erasing (Zhong et al. 2020, arXiv 1708.04896) of a whole batch: each image draws its own rectangle."""

from __future__ import annotations

import math

import torch
from torch import Tensor

AREAS = (0.02, 0.33)
"""Least and greatest share of the image."""
RATIOS = (0.3, 3.3)
"""Least and greatest height / width."""
TRIES = 10
"""Rectangles drawn for an image; the first that fits into it is taken, and if none does the image is unchanged."""


def random_erasing(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Blackens a rectangle of about a share ``probability`` of the images.

    Args:
        images: float [B,C,H,W], any device.
        generator: a CPU generator, so that the draws are the same on every device.
    """
    num, _, height, width = images.shape
    return erase(images, draw_erased(num, height, width, probability, generator).to(images.device, non_blocking=True))


def draw_erased(num: int, height: int, width: int, probability: float, generator: torch.Generator) -> Tensor:
    """int64 [4,num] on the CPU: top, left, height and width of what is blackened in each image; all 0: nothing."""
    chosen_B = torch.rand(num, generator=generator) < probability
    boxes_B4, fits_B = draw_boxes(num, height, width, generator)
    return torch.where((chosen_B & fits_B)[:, None], boxes_B4, 0).T


def erase(images: Tensor, boxes_4B: Tensor) -> Tensor:
    """Blackens the rectangles of :func:`draw_erased`, which are on the images' device."""
    top, left, rows, columns = (values[:, None] for values in boxes_4B)
    return fill_boxes(images, top, left, rows, columns, 0.0)


def fill_boxes(images: Tensor, top: Tensor, left: Tensor, rows: Tensor | int, columns: Tensor | int, value: float) -> Tensor:
    """One rectangle of each image, or the part of it that lies in the image, filled with a value; places are [B,1]."""
    y, x = (torch.arange(length, device=images.device) for length in images.shape[2:])
    inside_BH, inside_BW = (y >= top) & (y < top + rows), (x >= left) & (x < left + columns)
    return images.masked_fill((inside_BH[:, :, None] & inside_BW[:, None, :])[:, None], value)


def draw_boxes(num: int, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rectangles int64 [num,4] (top, left, height, width), and bool [num] whether one of the tries fits into the image."""
    area_BT = height * width * torch.empty(num, TRIES).uniform_(*AREAS, generator=generator)
    ratio_BT = torch.empty(num, TRIES).uniform_(math.log(RATIOS[0]), math.log(RATIOS[1]), generator=generator).exp_()
    rows_BT, columns_BT = (area_BT * ratio_BT).sqrt_().round_(), (area_BT / ratio_BT).sqrt_().round_()
    fits_BT = (rows_BT < height) & (columns_BT < width)
    first_B1 = fits_BT.to(torch.uint8).argmax(1, keepdim=True)
    rows_B, columns_B = rows_BT.gather(1, first_B1).squeeze(1), columns_BT.gather(1, first_B1).squeeze(1)
    top_B = (torch.rand(num, generator=generator) * (height - rows_B + 1)).floor_()
    left_B = (torch.rand(num, generator=generator) * (width - columns_B + 1)).floor_()
    return torch.stack([top_B, left_B, rows_B, columns_B], 1).long(), fits_BT.any(1)
