"""Initialisation of the distillation literature's classifiers, where it differs from PyTorch's default."""

from __future__ import annotations

import math

from torch import nn


def initialize_fan_out(model: nn.Module, linear_std: float | None = None) -> None:
    """Convolutions N(0, sqrt(2 / (k^2 out_channels))) with zero bias, BatchNorm to the identity (He et al. 2015, fan out).

    Args:
        linear_std: standard deviation for linear weights, whose bias becomes 0; None leaves linear layers unchanged.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear) and linear_std is not None:
            nn.init.normal_(layer.weight, 0.0, linear_std)
            nn.init.zeros_(layer.bias)
