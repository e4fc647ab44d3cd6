"""Random crop with zero padding, or roll, and horizontal flip, of a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def random_crop_flip(images_BCHW: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shifts each image by up to ``padding`` pixels (zeros come in) and mirrors about half of them.

    One gather does both, for any dtype; with floating images it is differentiable.

    Args:
        images_BCHW: [B,C,H,W], uint8 or floating, on any device.
        padding: zeros added on each side before the crop; 0 means no crop.
        flip: mirror each image with probability 1/2.
        generator: a CPU generator, so that the draws are the same on every device.

    Returns:
        [B,C,H,W] of the same dtype; the input itself where there is nothing to do.
    """
    if padding == 0 and not flip:
        return images_BCHW
    places_3B = draw_places(len(images_BCHW), padding, flip, generator)
    return crop_flip(images_BCHW, places_3B.to(images_BCHW.device, non_blocking=True), padding)


def random_roll_flip(images_BCHW: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """As ``random_crop_flip``, but what leaves an image on one side comes in on the other (DeepInversion's jitter)."""
    if shift == 0 and not flip:
        return images_BCHW
    places_3B = draw_places(len(images_BCHW), shift, flip, generator).to(images_BCHW.device, non_blocking=True)
    height, width = images_BCHW.shape[2:]
    rows_BH, columns_BW = _lines(places_3B, height, width)
    return _take(images_BCHW, (rows_BH - shift) % height, (columns_BW - shift) % width)


def draw_places(num: int, most: int, flip: bool, generator: torch.Generator) -> Tensor:
    """int64 [3,num] on the CPU: of each image the first row and column, from 0 to 2 ``most``, and whether it is mirrored."""
    offsets_2B = torch.randint(0, 2 * most + 1, (2, num), generator=generator)
    flipped_B = torch.rand(num, generator=generator) < 0.5 if flip else torch.zeros(num, dtype=torch.bool)
    return torch.cat([offsets_2B, flipped_B[None].long()])


def crop_flip(images_BCHW: Tensor, places_3B: Tensor, padding: int) -> Tensor:
    """The crops at the places of :func:`draw_places`, which are on the images' device: only these numbers travel there."""
    rows_BH, columns_BW = _lines(places_3B, *images_BCHW.shape[2:])
    return _take(F.pad(images_BCHW, [padding] * 4), rows_BH, columns_BW)


def _lines(places_3B: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Which row [B,H] and column [B,W], counted from ``most`` before the first, each pixel comes from."""
    rows_H, columns_W = (torch.arange(length, device=places_3B.device) for length in (height, width))
    columns_BW = torch.where(places_3B[2, :, None] > 0, width - 1 - columns_W, columns_W)
    return rows_H + places_3B[0, :, None], columns_BW + places_3B[1, :, None]


def _take(images_BCHW: Tensor, rows_BH: Tensor, columns_BW: Tensor) -> Tensor:
    """[B,C,rows,columns] of the pixels at these rows and columns, as one gather."""
    num, channels, _, width = images_BCHW.shape
    index_BHW = rows_BH[:, :, None] * width + columns_BW[:, None, :]
    index_BCP = index_BHW.reshape(num, 1, -1).expand(-1, channels, -1)
    return images_BCHW.reshape(num, channels, -1).gather(2, index_BCP).reshape(num, channels, *index_BHW.shape[1:])
