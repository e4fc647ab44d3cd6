"""ResNet-18/34/50 with the CIFAR stem: 3x3 stride-1 convolution and no max-pool (He et al. 2016, as data-free papers use it).

Parameter names are those of the DAFL and CMI checkpoints (``shortcut``, ``linear``). PyTorch's default initialisation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from raydfkd.models.classifiers.stages import chained_maps

BASIC_DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
BOTTLENECK_DEPTHS = {"resnet50": (3, 4, 6, 3)}


def projection(in_width: int, out_width: int, stride: int) -> nn.Sequential:
    """The skip path: nothing, or conv1x1-BN where the shape changes."""
    if stride == 1 and in_width == out_width:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(in_width, out_width, 1, stride, bias=False), nn.BatchNorm2d(out_width))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip."""

    expansion = 1

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = projection(in_width, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a skip; the output is four times as wide."""

    expansion = 4

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = projection(in_width, 4 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class ResNet(nn.Module):
    """Images [B,C,H,W] to logits [B,K]; resolution is divided by 8; the penultimate width is 512 x expansion.

    Args:
        block: :class:`BasicBlock` or :class:`Bottleneck`.
        depths: blocks in each of the four stages.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        expansion = block.expansion
        self.layer1 = _stage(block, depths[0], 64, 64, 1)
        self.layer2 = _stage(block, depths[1], 64 * expansion, 128, 2)
        self.layer3 = _stage(block, depths[2], 128 * expansion, 256, 2)
        self.layer4 = _stage(block, depths[3], 256 * expansion, 512, 2)
        self.linear = nn.Linear(512 * expansion, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool_and_classify(self.layer4(self.layer3(self.layer2(self.layer1(self._stem(images))))))

    def forward_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the stem and of the four stages, all activated."""
        return chained_maps(self._stem(images), (self.layer1, self.layer2, self.layer3, self.layer4))

    def pool_and_classify(self, last_map: torch.Tensor) -> torch.Tensor:
        """Logits [B,K] of the last stage's output."""
        return self.linear(last_map.mean((2, 3)))

    def _stem(self, images: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn1(self.conv1(images)), inplace=True)


def _stage(
    block: type[BasicBlock] | type[Bottleneck], num_blocks: int, in_width: int, width: int, stride: int
) -> nn.Sequential:
    rest = [block(width * block.expansion, width, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(block(in_width, width, stride), *rest)
