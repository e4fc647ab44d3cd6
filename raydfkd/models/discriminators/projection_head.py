"""CMI's projection of a teacher's instance features to unit vectors, in which images are told apart."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ProjectionHead(nn.Module):
    """Features [B,d] to unit vectors [B,D], float32: linear of the same width, ReLU, linear, L2 norm (Fang et al., IJCAI 2021).

    Weights start at PyTorch's defaults, as in the published code.
    """

    def __init__(self, feature_dim: int, projected_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(feature_dim, feature_dim), nn.ReLU(inplace=True), nn.Linear(feature_dim, projected_dim)
        )

    def forward(self, features_Bd: Tensor) -> Tensor:
        return F.normalize(self.layers(features_Bd), dim=1)
