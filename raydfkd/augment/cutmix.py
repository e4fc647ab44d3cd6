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
    height, width = images.shape[2:]
    kept = float(beta_draws(alpha, 1, generator))
    y, x = (float(place) for place in torch.rand(2, generator=generator))
    rows, columns = _span(y, height, kept), _span(x, width, kept)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images.flip(0)[:, :, rows, columns]
    return mixed


def _span(middle: float, length: int, kept: float) -> slice:
    """The rows or columns that are replaced, the middle and the share that is kept given in [0,1]."""
    half = int(length * (1 - kept) ** 0.5) // 2
    place = int(middle * length)
    return slice(max(0, place - half), min(length, place + half))
