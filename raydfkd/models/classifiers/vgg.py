"""VGG with BatchNorm and one linear layer, for 32 and 64 pixel images (Simonyan and Zisserman 2015, RepDistiller's form)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from raydfkd.models.classifiers.initialization import initialize_fan_out

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS: dict[str, tuple[int, int, int, int, int]] = {
    "vgg8_bn": (1, 1, 1, 1, 1),
    "vgg11_bn": (1, 1, 2, 2, 2),
    "vgg13_bn": (2, 2, 2, 2, 2),
    "vgg16_bn": (2, 2, 3, 3, 3),
}
"""Convolutions in each of the five blocks."""


class VGG(nn.Module):
    """Images [B,C,H,W] to logits [B,K]; the penultimate width is 512.

    The first three blocks are each followed by a 2x2 max-pool; the fourth only for images of 64 pixels and larger.

    Args:
        depths: convolutions (3x3 with bias, then BN and ReLU) in each block.
        image_size: the shorter side in pixels.
    """

    def __init__(
        self, depths: tuple[int, int, int, int, int], num_classes: int, in_channels: int = 3, image_size: int = 32
    ) -> None:
        super().__init__()
        self.num_pools = 4 if image_size >= 64 else 3
        widths = (in_channels, *WIDTHS)
        # Named attributes, not a list, to match the names in RepDistiller's checkpoints.
        self.block0, self.block1, self.block2, self.block3, self.block4 = (
            _block(depth, before, width) for depth, before, width in zip(depths, widths, WIDTHS, strict=False)
        )
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        initialize_fan_out(self, linear_std=0.01)

    @property
    def blocks(self) -> tuple[nn.Sequential, ...]:
        """All five."""
        return (self.block0, self.block1, self.block2, self.block3, self.block4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool_and_classify(self.forward_maps(images)[-1])

    def forward_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the five blocks before the max-pools that follow them; the first block serves as the stem."""
        maps = [self.block0(images)]
        for index, block in enumerate(self.blocks[1:]):
            maps.append(block(self.pooled(maps[-1], index)))
        return maps

    def pool_and_classify(self, last_map: torch.Tensor) -> torch.Tensor:
        """Logits [B,K] of the last block's output."""
        return self.classifier(last_map.mean((2, 3)))

    def pooled(self, x: torch.Tensor, block_index: int) -> torch.Tensor:
        """A block's output as the next block takes it."""
        return F.max_pool2d(x, 2) if block_index < self.num_pools else x


def _block(depth: int, in_channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        layers.append(nn.Conv2d(in_channels if index == 0 else width, width, 3, 1, 1))
        layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
