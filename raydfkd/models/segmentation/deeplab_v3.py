"""DeepLabV3 (Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv 1706.05587).

The form that data-free papers use on NYUv2: maps at an eighth of the resolution, dilations 12, 24 and 36, dropout of 0.1.
Parameter names are torchvision's.
"""

from __future__ import annotations

import torch
from torch import nn

from raydfkd.models.segmentation.small_unet import conv_norm_relu, resized

DILATIONS = (12, 24, 36)
WIDTH = 256
DROPOUT = 0.1


class ImagePooling(nn.Sequential):
    """The mean over the image, through a 1x1 convolution, at every place. It needs two images or more in training."""

    def __init__(self, in_width: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *conv_norm_relu(in_width, WIDTH, kernel=1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return resized(super().forward(maps), maps)


class AtrousPyramid(nn.Module):
    """Maps [B,C,h,w] to [B,256,h,w]: 1x1, three dilated 3x3 and the image's mean, joined by a 1x1 convolution."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                conv_norm_relu(in_width, WIDTH, kernel=1),
                *(conv_norm_relu(in_width, WIDTH, dilation=dilation) for dilation in DILATIONS),
                ImagePooling(in_width),
            ]
        )
        self.project = nn.Sequential(*conv_norm_relu(len(self.convs) * WIDTH, WIDTH, kernel=1), nn.Dropout(DROPOUT))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.project(torch.cat([conv(maps) for conv in self.convs], 1))


class DeepLabV3(nn.Module):
    """Images [B,C,H,W] to logits [B,K,H,W]; the penultimate width is 256.

    Args:
        backbone: from images to maps [B,width,h,w].
        width: the maps' channels.
    """

    def __init__(self, backbone: nn.Module, width: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Sequential(AtrousPyramid(width), *conv_norm_relu(WIDTH, WIDTH), nn.Conv2d(WIDTH, num_classes, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return resized(self.classifier(self.backbone(images)), images)
