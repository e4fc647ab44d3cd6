"""RandAugment's colour operations, batched: every image has its own strength.

B images, C channels; floating values in [0,1] in and out. A ``strengths_B`` is on the images' device. Formulas are Pillow's
(which the published operations call), on real numbers where Pillow rounds to bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)
"""ITU-R 601 luma of red, green and blue."""


def brightness(images: Tensor, factors_B: Tensor) -> Tensor:
    """Factor times each value: 0 is black, 1 the image."""
    return _blend(torch.zeros_like(images), images, factors_B)


def saturation(images: Tensor, factors_B: Tensor) -> Tensor:
    """Between the grey image (0) and the image (1), or beyond. Images without 3 channels are unchanged."""
    return images if images.shape[1] != 3 else _blend(_grey(images), images, factors_B)


def contrast(images: Tensor, factors_B: Tensor) -> Tensor:
    """Between the image's mean grey (0) and the image (1), or beyond."""
    return _blend(_grey(images).mean((1, 2, 3), keepdim=True), images, factors_B)


def sharpness(images: Tensor, factors_B: Tensor) -> Tensor:
    """Between the smoothed image (0) and the image (1), or beyond; the outermost pixels stay as they are."""
    if min(images.shape[2:]) < 3:
        return images
    smooth = images.clone()
    # Pillow's kernel: nine ones, but for a 5 in the middle, divided by 13.
    smooth[..., 1:-1, 1:-1] = (9 * F.avg_pool2d(images, 3, stride=1) + 4 * images[..., 1:-1, 1:-1]) / 13
    return _blend(smooth, images, factors_B)


def posterize(images: Tensor, bits_B: Tensor) -> Tensor:
    """Keeps the first ``bits`` (1 to 8) of each byte; 8 leaves an image unchanged."""
    sizes = _each(torch.exp2(8.0 - bits_B))
    bytes_ = (images * 255).round_()
    return torch.where(sizes > 1, (bytes_ / sizes).floor_().mul_(sizes).div_(255), images)


def solarize(images: Tensor, thresholds_B: Tensor) -> Tensor:
    """Inverts the values at or above the threshold; a threshold above 1 leaves an image unchanged."""
    return torch.where(images >= _each(thresholds_B), 1 - images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretches each channel's values to all of [0,1]; a channel of one value stays."""
    least, most = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = most - least
    return torch.where(span > 0, (images - least) / torch.where(span > 0, span, 1.0), images)


def equalize(images: Tensor) -> Tensor:
    """Flattens each channel's histogram of 256 byte values, as Pillow does (its integer arithmetic included)."""
    num, channels = images.shape[:2]
    values = (images * 255).round_().long().clamp_(0, 255).reshape(num * channels, -1)
    counts = torch.zeros(num * channels, 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(1, values, torch.ones_like(values))
    # The brightest value that occurs does not count towards the step.
    brightest = values.amax(1, keepdim=True)
    step = (values.shape[1] - counts.gather(1, brightest)) // 255
    below = counts.cumsum(1) - counts
    table = ((below + step // 2) // step.clamp_min(1)).clamp_(0, 255)
    equalized = table.gather(1, values).to(images.dtype).div_(255).view_as(images)
    return torch.where(step.view(num, channels, 1, 1) > 0, equalized, images)


def invert(images: Tensor) -> Tensor:
    """1 - x."""
    return 1 - images


def _grey(images: Tensor) -> Tensor:
    """[B,1,H,W]: the luma of 3 channels, the mean of any other number."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = GRAY_WEIGHTS
    return (red * images[:, :1]).add_(images[:, 1:2], alpha=green).add_(images[:, 2:], alpha=blue)


def _blend(other: Tensor, images: Tensor, factors_B: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(images), images, _each(factors_B)).clamp_(0, 1)


def _each(values_B: Tensor) -> Tensor:
    return values_B.view(-1, 1, 1, 1)
