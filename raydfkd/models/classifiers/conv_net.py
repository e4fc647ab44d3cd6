"""ConvNet, the network of the literature on dataset condensation."""

from __future__ import annotations

import torch
from torch import nn

from raydfkd.models.classifiers import ImageShape

WIDTH = 128


class ConvNet(nn.Module):
    """D times conv3x3, instance norm, ReLU and 2x2 average pooling, 128 channels wide, then a linear layer on all that is left.

    From Gidaris and Komodakis 2018 as Zhao, Mopuri and Bilen use it ("Dataset Condensation with Gradient Matching", ICLR
    2021): depth 3 for images of 32 x 32 pixels, 320,010 parameters for ten classes of colour images; depth 4 for 64 x 64.
    Instance norm is group norm with a group for each channel, so that nothing depends on the other images of a batch.

    Args:
        depth: D.
        image_shape: (C, H, W); H and W are at least 2**D.
    """

    def __init__(self, depth: int, num_classes: int, image_shape: ImageShape) -> None:
        super().__init__()
        in_channels, height, width = image_shape
        blocks = []
        for _ in range(depth):
            block = nn.Sequential(
                nn.Conv2d(in_channels, WIDTH, 3, padding=1), nn.GroupNorm(WIDTH, WIDTH), nn.ReLU(inplace=True), nn.AvgPool2d(2)
            )
            blocks.append(block)
            in_channels = WIDTH
        self.blocks = nn.ModuleList(blocks)
        self.fc = nn.Linear(WIDTH * (height >> depth) * (width >> depth), num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool_and_classify(self.forward_maps(images)[-1])

    def forward_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Output of each block; the first is the stem."""
        maps = []
        for block in self.blocks:
            images = block(images)
            maps.append(images)
        return maps

    def pool_and_classify(self, last_map: torch.Tensor) -> torch.Tensor:
        """Logits [B,K] of the last block's output."""
        return self.fc(last_map.flatten(1))
