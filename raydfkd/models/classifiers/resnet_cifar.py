"""The thin residual networks of depth 6n+2 for CIFAR (He et al. 2016, section 4.2) and their widened forms.

Parameter names are those of the RepDistiller checkpoints (``downsample``, ``fc``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from raydfkd.models.classifiers.initialization import initialize_fan_out
from raydfkd.models.classifiers.stages import chained_maps

Widths = tuple[int, int, int, int]
"""Channels of the stem and of the three stages."""

PLAIN: Widths = (16, 16, 32, 64)
DOUBLE: Widths = (16, 32, 64, 128)
QUADRUPLE: Widths = (32, 64, 128, 256)

ARCHITECTURES: dict[str, tuple[int, Widths]] = {
    **{f"resnet{depth}": (depth, PLAIN) for depth in (8, 14, 20, 32, 44, 56, 110, 116)},
    "resnet110x2": (110, DOUBLE),
    "resnet8x4": (8, QUADRUPLE),
    "resnet32x4": (32, QUADRUPLE),
}
"""Depth and widths by name."""


class ThinBlock(nn.Module):
    """Two 3x3 convolutions and a skip, conv1x1-BN where the shape changes."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


class ThinResNet(nn.Module):
    """Images [B,C,H,W] to logits [B,K]; strides 1, 2, 2; the penultimate width is the last of ``widths``.

    Raises:
        ValueError: ``depth - 2`` is not a positive multiple of 6.
    """

    def __init__(self, depth: int, widths: Widths, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6 != 0:
            raise ValueError(f"depth {depth} is not 6n+2 (8, 14, 20, 32, ...)")
        num_blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(num_blocks, widths[0], widths[1], 1)
        self.layer2 = _stage(num_blocks, widths[1], widths[2], 2)
        self.layer3 = _stage(num_blocks, widths[2], widths[3], 2)
        self.fc = nn.Linear(widths[3], num_classes)
        initialize_fan_out(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool_and_classify(self.layer3(self.layer2(self.layer1(self._stem(images)))))

    def forward_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the stem and of the three stages, all activated."""
        return chained_maps(self._stem(images), (self.layer1, self.layer2, self.layer3))

    def pool_and_classify(self, last_map: torch.Tensor) -> torch.Tensor:
        """Logits [B,K] of the last stage's output."""
        return self.fc(last_map.mean((2, 3)))

    def _stem(self, images: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn1(self.conv1(images)), inplace=True)


def _stage(num_blocks: int, in_width: int, width: int, stride: int) -> nn.Sequential:
    rest = [ThinBlock(width, width, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(ThinBlock(in_width, width, stride), *rest)
