"""A tiny BatchNorm network for 8 x 8 to 32 x 32 pictures: teacher and student in the demo and the tests."""

from __future__ import annotations

import torch
from torch import nn

from raydfkd.models.classifiers.stages import maps_at


class SmallCNN(nn.Module):
    """Three conv3x3-BN-ReLU of widths W, 2W, 2W, global average pool, linear. Ours; no paper.

    The second convolution halves the resolution, and the third does so too for images of 16 pixels and larger.

    Args:
        width: W, any positive number.
        image_size: the shorter side in pixels.
    """

    def __init__(self, width: int, num_classes: int, in_channels: int = 1, image_size: int = 8) -> None:
        super().__init__()
        strides = (1, 2, 2 if image_size >= 16 else 1)
        widths = (width, 2 * width, 2 * width)
        layers: list[nn.Module] = []
        for out_channels, stride in zip(widths, strides, strict=True):
            layers.append(nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False))
            layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU(inplace=True))
            in_channels = out_channels
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool_and_classify(self.features(images))

    def forward_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the three convolutions after their ReLU; the first is the stem."""
        return maps_at((2, 5, 8), self.features, images)

    def pool_and_classify(self, last_map: torch.Tensor) -> torch.Tensor:
        """Logits [B,K] of the last convolution's output."""
        return self.fc(last_map.mean((2, 3)))
