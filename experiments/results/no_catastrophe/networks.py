"""Four small designs for 8 x 8 digits: with BatchNorm, with a normalisation of single images, and two without any."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

Norm = Callable[[int], nn.Module]
BATCH: Norm = nn.BatchNorm2d
GROUP: Norm = partial(nn.GroupNorm, 4)


def none(channels: int) -> nn.Module:
    return nn.Identity()


def conv(inputs: int, outputs: int, norm: Norm, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and normalisation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups), norm(outputs))


class Residual(nn.Module):
    """``x + body(x)``, with a projection where the shape changes."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


def classifier(layers: list[nn.Module], width: int, num_classes: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


def plain(norm: Norm, num_classes: int, in_channels: int) -> nn.Module:
    """Three convolutions, 57,000 parameters."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((in_channels, 32, 1), (32, 64, 2), (64, 64, 1)):
        layers += [conv(inputs, outputs, norm, stride=stride), nn.ReLU()]
    return classifier(layers, 64, num_classes)


def residual(norm: Norm, num_classes: int, in_channels: int) -> nn.Module:
    """Stem and four basic blocks, normalised before activation, 97,000 parameters."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, 16, 3, 1, 1)]
    for inputs, outputs, stride in ((16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2)):
        body = nn.Sequential(
            norm(inputs),
            nn.ReLU(),
            *conv(inputs, outputs, norm, stride=stride),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
        )
        layers.append(Residual(body, None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride)))
    return classifier([*layers, norm(64), nn.ReLU()], 64, num_classes)


def mobile(norm: Norm, num_classes: int, in_channels: int) -> nn.Module:
    """Inverted residual blocks as in MobileNetV2, 28,000 parameters."""
    layers: list[nn.Module] = [conv(in_channels, 24, norm), nn.ReLU6()]
    for inputs, outputs, stride in ((24, 24, 1), (24, 32, 2), (32, 32, 1)):
        wide = 4 * inputs
        body = nn.Sequential(
            conv(inputs, wide, norm, 1),
            nn.ReLU6(),
            conv(wide, wide, norm, 3, stride, wide),
            nn.ReLU6(),
            conv(wide, outputs, norm, 1),
        )
        layers.append(Residual(body) if inputs == outputs else body)
    return classifier([*layers, conv(32, 96, norm, 1), nn.ReLU6()], 96, num_classes)


class TokenBatchNorm(nn.Module):
    """BatchNorm over images and tokens of [B,N,D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.bn(tokens.flatten(0, 1)).view_as(tokens)


def vit(norm: Norm, num_classes: int, in_channels: int) -> nn.Module:
    """torchvision's vision transformer: patches of 2 x 2, three blocks 48 wide, 59,000 parameters."""
    network = VisionTransformer(8, 2, 3, 4, 48, 96, num_classes=num_classes, norm_layer=norm)
    network.conv_proj = nn.Conv2d(in_channels, 48, 2, 2)
    nn.init.trunc_normal_(network.heads.head.weight, std=0.02)
    return network


plain_batch, plain_group, plain_none = partial(plain, BATCH), partial(plain, GROUP), partial(plain, none)
residual_batch, residual_group, residual_none = partial(residual, BATCH), partial(residual, GROUP), partial(residual, none)
mobile_batch, mobile_group = partial(mobile, BATCH), partial(mobile, GROUP)
mobile_smoothed = mobile_batch
vit_batch, vit_layer = partial(vit, TokenBatchNorm), partial(vit, partial(torch.nn.LayerNorm, eps=1e-6))
vit_smoothed = vit_layer
