"""MobileNetV2 with dilation in place of the last two strides: the small backbone of DeepLabV3."""

from __future__ import annotations

import torch
from torch import nn

from raydfkd.models.classifiers.mobilenet_v2 import STAGES, VARIANTS, InvertedResidual, MobileNetV2

WIDTH = 320
"""Channels of the last stage."""
MOST_REDUCED = 8
"""Image pixels a side to a pixel of the maps."""


class DilatedMobileNetV2(nn.Module):
    """Images [B,C,H,W] to maps [B,320,H/8,W/8]: MobileNetV2 (Sandler et al. 2018) without its last 1x1 convolution.

    Once maps are an eighth of the resolution, strides become dilations: a stage's first block has the dilation of the stages
    before it, the others twice that. Parameter names are torchvision's ``features``.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.features = MobileNetV2(VARIANTS["mobilenet_v2"], 2, in_channels).features[:-1]
        blocks = iter(layer for layer in self.features if isinstance(layer, InvertedResidual))
        reduced, dilation = 2, 1  # after the stem
        for _, _, num_blocks, stride in STAGES:
            becomes_dilation = stride > 1 and reduced == MOST_REDUCED
            for number in range(num_blocks):
                block = next(blocks)
                if number == 0 and becomes_dilation:
                    _dilate(block, dilation)
                    dilation *= stride
                else:
                    _dilate(block, dilation, keep_stride=number == 0)
            reduced *= 1 if becomes_dilation else stride

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.features(images)


def _dilate(block: InvertedResidual, dilation: int, keep_stride: bool = False) -> None:
    """Gives the block's 3x3 convolution a dilation, and a stride of 1."""
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            layer.stride = layer.stride if keep_stride else (1, 1)
            layer.dilation = layer.padding = (dilation, dilation)
