"""A network whose penultimate feature is a point in the plane, so that features and decision regions can be drawn."""

from __future__ import annotations

import torch
from torch import nn

from raydfkd.models.classifiers.stages import maps_at


class PlanarCNN(nn.Module):
    """Five conv3x3-BN-ReLU of widths W, 2W, 2W, 4W, 4W, a linear conv1x1 to two maps, global average pool, linear.

    The layers are ours; that a network pools to two features is from Fig. 2 of "What Makes a Good Dataset for Knowledge
    Distillation?". The second and the fourth convolution halve the resolution; an output of the fifth sees 21 x 21 pixels. The
    conv1x1 has no activation: features on all sides of the origin leave room for more classes than those of one quadrant.

    Args:
        width: W, any positive number.
    """

    def __init__(self, width: int, num_classes: int, in_channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for out_channels, stride in ((width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1)):
            layers.append(nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False))
            layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU(inplace=True))
            in_channels = out_channels
        layers.append(nn.Conv2d(in_channels, 2, 1, bias=False))
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(2, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool_and_classify(self.features(images))

    def forward_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the first convolution and of each resolution's last one, after their ReLU, and of the conv1x1."""
        return maps_at((2, 8, 15), self.features, images)

    def pool_and_classify(self, last_map: torch.Tensor) -> torch.Tensor:
        """Logits [B,K] of the conv1x1's output [B,2,h,w]."""
        return self.fc(last_map.mean((2, 3)))
