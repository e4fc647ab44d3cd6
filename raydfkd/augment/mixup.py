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
    partners = torch.randperm(len(images), generator=generator)
    shares = torch.rand(len(images) if per_sample else 1, generator=generator)
    shares = torch.maximum(shares, 1 - shares).to(images.device)
    return torch.lerp(images[partners.to(images.device)], images, shares.view(-1, 1, 1, 1))
