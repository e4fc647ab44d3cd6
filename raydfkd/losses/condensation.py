"""Losses of dataset condensation: what a small synthetic set has in common with the real one it stands for."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_COSINE_EPS = 1e-6


def distribution_matching_loss(real_BF: Tensor, synthetic_SF: Tensor) -> Tensor:
    """|| mean over B of f(x) - mean over S of f(s) ||^2 of one class's features under a random network.

    Distribution Matching (Zhao and Bilen, WACV 2023, arXiv 2110.04181), Eq. 4, for one class.
    """
    return (real_BF.float().mean(0) - synthetic_SF.float().mean(0)).square().sum()


def gradient_matching_loss(real: Iterable[Tensor], synthetic: Iterable[Tensor]) -> Tensor:
    """Sum over layers and output nodes of 1 - cos of the two gradients of that node's incoming weights.

    Dataset Condensation with Gradient Matching (Zhao, Mopuri and Bilen, ICLR 2021, arXiv 2006.05929), Eqs 9 and 10. One
    dimensional parameters (biases, the weights of normalisation layers) are left out, as its authors do.

    Args:
        real, synthetic: gradients of the network's parameters, in the same order.
    """
    terms = []
    for real_grad, synthetic_grad in zip(real, synthetic, strict=True):
        if real_grad.ndim < 2:
            continue
        ours, theirs = synthetic_grad.flatten(1), real_grad.flatten(1)
        lengths = ours.norm(dim=1) * theirs.norm(dim=1) + _COSINE_EPS
        terms.append((1 - (ours * theirs).sum(1) / lengths).sum())
    return torch.stack(terms).sum()


def trajectory_matching_loss(reached_P: Tensor, start_P: Tensor, target_P: Tensor) -> Tensor:
    """|| theta_N - theta*_{t+M} ||^2 / || theta*_t - theta*_{t+M} ||^2, of weights as vectors.

    Matching Training Trajectories (Cazenavette et al., CVPR 2022, arXiv 2203.11932), Eq. 2.

    Args:
        reached_P: the student's weights after N steps on the synthetic set, from ``start_P``.
        start_P: an expert's weights at epoch t.
        target_P: the same expert's at epoch t + M.
    """
    return (reached_P - target_P).square().sum() / (start_P - target_P).square().sum()
