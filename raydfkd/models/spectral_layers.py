"""Linear and convolution layers whose weight is divided by its largest singular value (Miyato et al., ICLR 2018).

PyTorch's parametrization with one power iteration per access in training mode and none in evaluation mode. Two things are
ours: weights start at N(0,.02) and biases at 0, as in the ADC-GAN recipes; and the weight is normalised in float32 even under
autocast, because a power iteration in bfloat16 would leave the norm inaccurate by about one per cent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

INITIAL_STD = 0.02


class SpectralConv2d(nn.Conv2d):
    """A convolution of odd ``kernel_size`` with bias that keeps the image's size; spectral norm 1 as a matrix [out, in*k*k]."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        initialize_and_normalize(self)

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, float32_weight(self, input), self.bias, padding=self.padding)


class SpectralLinear(nn.Linear):
    """A linear layer of spectral norm 1."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        initialize_and_normalize(self)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, float32_weight(self, input), self.bias)


def initialize_and_normalize(layer: nn.Conv2d | nn.Linear) -> None:
    # The first power iterations are run when the norm is registered, so the weight must be there before.
    nn.init.normal_(layer.weight, 0.0, INITIAL_STD)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    spectral_norm(layer)


def float32_weight(layer: nn.Conv2d | nn.Linear, beside: Tensor) -> Tensor:
    """The normalised weight, computed without autocast on the device of ``beside``."""
    with torch.autocast(beside.device.type, enabled=False):
        return layer.weight
