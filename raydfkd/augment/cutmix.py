"""CutMix of images alone (Yun et al., ICCV 2019): the teacher labels the composition itself."""

from __future__ import annotations

import torch
from torch import Tensor

from raydfkd.augment.beta import beta_draws


def cutmix(images: Tensor, alpha: float, generator: torch.Generator) -> Tensor:
    """One rectangle of each image comes from its partner, the image at the same place of the reversed batch.

    As in the code of "The Augmented Image Prior" (Asano and Saeed, ICLR 2023): one lambda ~ Beta(alpha, alpha) a batch, and
    one rectangle, of the image's proportions and the share 1 - lambda of its area, whose middle lies anywhere, so that a part
    of it may lie outside.

    Args:
        images: float [B,C,H,W].
        alpha: above 0; .25 in that paper.
        generator: a CPU generator, so that the draws are the same on every device.
    """
    num, _, height, width = images.shape
    return paste(images, draw_cut(num, height, width, alpha, generator).to(images.device, non_blocking=True))


def draw_cut(num: int, height: int, width: int, alpha: float, generator: torch.Generator) -> Tensor:
    """int64 [4,num] on the CPU, the same for all images: first row and the one behind the last, first column and likewise."""
    kept = float(beta_draws(alpha, 1, generator))
    y, x = (float(place) for place in torch.rand(2, generator=generator))
    return torch.tensor([*_span(y, height, kept), *_span(x, width, kept)])[:, None].expand(4, num)


def paste(images: Tensor, cut_4B: Tensor) -> Tensor:
    """The compositions of :func:`draw_cut`, which is on the images' device."""
    y, x = (torch.arange(length, device=images.device) for length in images.shape[2:])
    top, bottom, left, right = (edge[:, None] for edge in cut_4B)
    rows_BH, columns_BW = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return torch.where((rows_BH[:, :, None] & columns_BW[:, None, :])[:, None], images.flip(0), images)


def _span(middle: float, length: int, kept: float) -> tuple[int, int]:
    """The rows or columns that are replaced, the middle and the share that is kept given in [0,1]."""
    half = int(length * (1 - kept) ** 0.5) // 2
    place = int(middle * length)
    return max(0, place - half), min(length, place + half)
