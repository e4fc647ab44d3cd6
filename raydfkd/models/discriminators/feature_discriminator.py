"""The discriminator of features given a class, of Condensed Data Expansion (arXiv 2408.13850)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeatureDiscriminator(nn.Module):
    """Features [B,F] and class codes [B,E] to the logit [B] for being a real feature of that class.

    Side by side through linear, LeakyReLU .2, linear. The paper says only that it is the one of AFHN (Li et al., CVPR 2020);
    the layers are those of AFHN's re-implementations.
    """

    def __init__(self, feature_dim: int, code_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(feature_dim + code_dim, hidden_dim)
        self.logit = nn.Linear(hidden_dim, 1)

    def forward(self, features_BF: Tensor, codes_BE: Tensor) -> Tensor:
        return self.logit(F.leaky_relu(self.hidden(torch.cat([features_BF, codes_BE], 1)), 0.2)).squeeze(1)
