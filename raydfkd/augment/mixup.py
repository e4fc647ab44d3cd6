"""Mixup of images alone (Zhang et al. 2018, arXiv 1710.09412): the teacher labels the mixture itself."""

from __future__ import annotations

import torch
from torch import Tensor


def mixup(images: Tensor, per_sample: bool, generator: torch.Generator) -> Tensor:
    """lambda x_i + (1 - lambda) x_j, with j from a random permutation and lambda ~ U(0,1).

    The larger of lambda and 1 - lambda is the share of x_i. That gives the same mixtures, since i and j have the same
    distribution, and the loss of the i-th mixture depends mainly on the i-th image, whose priority it becomes.

    Args:
        images: float [B,C,H,W].
        per_sample: a lambda for each image; otherwise one for the batch.
        generator: a CPU generator, so that the draws are the same on every device.
    """
    return mix(images, draw_mixture(len(images), per_sample, generator).to(images.device, non_blocking=True))


def draw_mixture(num: int, per_sample: bool, generator: torch.Generator) -> Tensor:
    """float32 [2,num] on the CPU: j, and the share of x_i in the mixture."""
    partners = torch.randperm(num, generator=generator)
    shares = torch.rand(num if per_sample else 1, generator=generator)
    return torch.stack([partners.float(), torch.maximum(shares, 1 - shares).expand(num)])


def mix(images: Tensor, mixture_2B: Tensor) -> Tensor:
    """The mixtures of :func:`draw_mixture`, which are on the images' device."""
    return torch.lerp(images[mixture_2B[0].long()], images, mixture_2B[1].view(-1, 1, 1, 1))
