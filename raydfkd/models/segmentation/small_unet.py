"""A small encoder and decoder for images of 16 to some hundred pixels: teacher and student on laptops and in the tests."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class SmallUNet(nn.Module):
    """Images [B,C,H,W] to logits [B,K,H,W], H and W multiples of 4. Ours, after U-Net (Ronneberger et al., MICCAI 2015).

    Three stages of widths W, 2W and 4W at half, quarter and eighth resolution, of two conv3x3-BN-ReLU each, the last one's
    dilated for a view of the whole image; two steps back up, each joined with the stage of its resolution; a 1x1 convolution
    and bilinear interpolation to the images' size.

    Args:
        width: W, any positive number.
    """

    def __init__(self, width: int, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(conv_norm_relu(in_channels, width, stride=2), conv_norm_relu(width, width))
        self.stage2 = nn.Sequential(conv_norm_relu(width, 2 * width, stride=2), conv_norm_relu(2 * width, 2 * width))
        self.stage3 = nn.Sequential(
            conv_norm_relu(2 * width, 4 * width, stride=2),
            conv_norm_relu(4 * width, 4 * width, dilation=2),
            conv_norm_relu(4 * width, 4 * width, dilation=4),
        )
        self.up_to_quarter = conv_norm_relu(6 * width, 2 * width)
        self.up_to_half = conv_norm_relu(3 * width, width)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        half = self.stage1(images)
        quarter = self.stage2(half)
        x = self.up_to_quarter(torch.cat([resized(self.stage3(quarter), quarter), quarter], 1))
        x = self.up_to_half(torch.cat([resized(x, half), half], 1))
        return resized(self.head(x), images)


def conv_norm_relu(in_width: int, out_width: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution without bias that keeps the size but for its stride, BatchNorm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_width, out_width, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(out_width),
        nn.ReLU(inplace=True),
    )


def resized(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Bilinear, to the height and width of ``like``."""
    return F.interpolate(maps, size=like.shape[2:], mode="bilinear", align_corners=False)
