"""MixStyle (Zhou et al., ICLR 2021) of images: each takes on a share of another one's contrast and colour."""

from __future__ import annotations

import torch
from torch import Tensor

from raydfkd.augment.beta import beta_draws

EPSILON = 1e-6


def mix_style(images: Tensor, alpha: float, generator: torch.Generator) -> Tensor:
    """(x - m) / s (lambda s + (1 - lambda) s') + lambda m + (1 - lambda) m'.

    m and s are the mean and standard deviation of each channel of an image, m' and s' those of the image that a random
    permutation puts in its place; lambda ~ Beta(alpha, alpha), one an image.

    Args:
        images: float [B,C,H,W], any device and range.
        alpha: above 0.
        generator: a CPU generator, so that the draws are the same on every device.
    """
    partners = torch.randperm(len(images), generator=generator).to(images.device)
    shares = beta_draws(alpha, len(images), generator).to(images.device).view(-1, 1, 1, 1)
    means = images.mean((2, 3), keepdim=True)
    scales = (images.var((2, 3), keepdim=True) + EPSILON).sqrt()
    mixed_means = torch.lerp(means[partners], means, shares)
    return (images - means) / scales * torch.lerp(scales[partners], scales, shares) + mixed_means
