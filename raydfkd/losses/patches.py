"""Loss on what a vision transformer makes of an image's patches. B images, P patches, D channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

BANDWIDTH = 0.01
"""Of the Gaussian kernel, in units of the cosine."""
NUM_POINTS = 10
"""Where the density is evaluated."""
LEAST_DENSITY = 1e-4
"""Added to it, so that its logarithm is finite."""


def patch_similarity_loss(tokens_BPD: Tensor) -> Tensor:
    """Minus the entropy of the similarities between an image's patches, the mean over images: noise has patches all alike.

    Li et al., "Patch Similarity Aware Data-Free Quantization for Vision Transformers", ECCV 2022 (arXiv 2203.02250), whose code
    adds the losses of all blocks. The cosines of all P * P pairs of patches have a density p by a Gaussian kernel; its
    differential entropy -integral p log p is by the trapezoidal rule over ten points from the least to the largest cosine of
    the batch. The tokens are an attention layer's outputs; the published code takes the mean over heads of what they are
    projected from.

    Args:
        tokens_BPD: without class tokens; computed in float32.

    Returns:
        float32 scalar.
    """
    unit_BPD = F.normalize(tokens_BPD.float(), dim=2, eps=1e-8)
    cosines_BN = (unit_BPD @ unit_BPD.transpose(1, 2)).flatten(1)
    least, most = torch.aminmax(cosines_BN.detach())
    points_G = least + (most - least) * torch.linspace(0, 1, NUM_POINTS, device=cosines_BN.device)
    distances_BGN = (points_G[:, None] - cosines_BN[:, None]) / BANDWIDTH
    density_BG = torch.exp(-0.5 * distances_BGN.square()).mean(2) / (BANDWIDTH * math.sqrt(2 * math.pi)) + LEAST_DENSITY
    return torch.trapezoid(density_BG * density_BG.log(), points_G, dim=1).mean()
