"""Random crop with zero padding, and horizontal flip, of a whole batch at once."""

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
    num, channels, height, width = images_BCHW.shape
    offsets_2B = torch.randint(0, 2 * padding + 1, (2, num), generator=generator)
    rows_BH = torch.arange(height) + offsets_2B[0, :, None]
    columns_BW = torch.arange(width) + offsets_2B[1, :, None]
    if flip:
        flipped_B = torch.rand(num, generator=generator) < 0.5
        columns_BW = torch.where(flipped_B[:, None], columns_BW.flip(1), columns_BW)
    index_BP = (rows_BH[:, :, None] * (width + 2 * padding) + columns_BW[:, None, :]).reshape(num, 1, height * width)
    padded_BCP = F.pad(images_BCHW, [padding] * 4).reshape(num, channels, -1)
    index_BCP = index_BP.to(images_BCHW.device, non_blocking=True).expand(-1, channels, -1)
    return padded_BCP.gather(2, index_BCP).reshape(num, channels, height, width)
