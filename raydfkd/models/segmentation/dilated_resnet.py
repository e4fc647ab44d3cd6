"""ResNet-50 with dilation in place of the last two strides: the backbone of DeepLabV3, at an eighth of the resolution.

Parameter names are torchvision's, so that the weights of its ResNet-50 and of its DeepLabV3 load.
"""

from __future__ import annotations

import torch
from torch import nn

from raydfkd.models.classifiers.initialization import initialize_fan_out

DEPTHS = (3, 4, 6, 3)
WIDTH = 2048
"""Channels of the last stage."""


class DilatedBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a skip; the output is four times as wide."""

    def __init__(self, in_width: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_width != 4 * width:
            shortcut = nn.Conv2d(in_width, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class DilatedResNet50(nn.Module):
    """Images [B,C,H,W] to maps [B,2048,H/8,W/8] (He et al. 2016; dilated as Chen et al., arXiv 1706.05587).

    The strides of the last two stages are 1; a stage's first block has the dilation of the stage before it, the others 2 and
    then 4. ImageNet's stem: 7x7 of stride 2 and max-pooling.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(DEPTHS[0], 64, 64, 1, (1, 1))
        self.layer2 = _stage(DEPTHS[1], 256, 128, 2, (1, 1))
        self.layer3 = _stage(DEPTHS[2], 512, 256, 1, (1, 2))
        self.layer4 = _stage(DEPTHS[3], 1024, 512, 1, (2, 4))
        initialize_fan_out(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def _stage(num_blocks: int, in_width: int, width: int, stride: int, dilations: tuple[int, int]) -> nn.Sequential:
    """Blocks of which the first has the stride and the first dilation."""
    first, others = dilations
    rest = [DilatedBottleneck(4 * width, width, 1, others) for _ in range(num_blocks - 1)]
    return nn.Sequential(DilatedBottleneck(in_width, width, stride, first), *rest)
