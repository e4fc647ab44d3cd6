"""Draws of a symmetric beta distribution, from an explicit generator."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def beta_draws(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """float32 [count] on the CPU, of Beta(alpha, alpha)."""
    seed = int(torch.randint(0, 2**62, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count)).float()
