"""MobileNetV2 (Sandler et al. 2018) in the three forms that data-free papers call by that name."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from raydfkd.models.classifiers.initialization import initialize_fan_out
from raydfkd.models.classifiers.stages import maps_at

PENULTIMATE_WIDTH = 1280

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels, blocks and first stride of each stage, as published."""

MAP_LAYERS = (0, 3, 6, 13, 18)
"""Positions in ``features`` of the layers whose outputs are the maps of ``forward_maps``."""


@dataclass(frozen=True)
class MobileNetV2Variant:
    """Differences between the forms.

    Attributes:
        width: multiplies all channels but the last 1280.
        stem_stride: stride of the first convolution.
        second_stage_stride: stride of the 24-channel stage, 1 in the CIFAR form.
        clipped: ReLU6 and not ReLU.
        always_expand: the first block has its 1x1 expansion too, although its factor is 1.
        dropout: before the linear layer.
    """

    width: float = 1.0
    stem_stride: int = 2
    second_stage_stride: int = 2
    clipped: bool = True
    always_expand: bool = False
    dropout: float = 0.2


def _crd(width: float) -> MobileNetV2Variant:
    return MobileNetV2Variant(width, second_stage_stride=1, clipped=False, always_expand=True, dropout=0.0)


VARIANTS: dict[str, MobileNetV2Variant] = {
    "mobilenet_v2": MobileNetV2Variant(),
    "mobilenet_v2_stride1": MobileNetV2Variant(stem_stride=1),
    "mobilenet_v2_half": _crd(0.5),
    "mobilenet_v2_crd": _crd(1.0),
}


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, 1x1 projection; with a skip where the shape stays."""

    def __init__(self, in_width: int, out_width: int, stride: int, expansion: int, variant: MobileNetV2Variant) -> None:
        super().__init__()
        hidden = in_width * expansion
        layers: list[nn.Module] = []
        if expansion != 1 or variant.always_expand:
            layers.append(_conv_norm_activation(in_width, hidden, 1, 1, 1, variant))
        layers.append(_conv_norm_activation(hidden, hidden, 3, stride, hidden, variant))
        layers.append(nn.Conv2d(hidden, out_width, 1, bias=False))
        layers.append(nn.BatchNorm2d(out_width))
        self.conv = nn.Sequential(*layers)
        self.has_skip = stride == 1 and in_width == out_width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.has_skip else self.conv(x)


class MobileNetV2(nn.Module):
    """Images [B,C,H,W] to logits [B,K]; the penultimate width is 1280.

    Parameter names are torchvision's, so that its state loads into ``mobilenet_v2``.
    """

    def __init__(self, variant: MobileNetV2Variant, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        width = int(32 * variant.width)
        layers: list[nn.Module] = [_conv_norm_activation(in_channels, width, 3, variant.stem_stride, 1, variant)]
        for index, (expansion, channels, num_blocks, stride) in enumerate(STAGES):
            first_stride = variant.second_stage_stride if index == 1 else stride
            for block in range(num_blocks):
                out_width = int(channels * variant.width)
                layers.append(InvertedResidual(width, out_width, first_stride if block == 0 else 1, expansion, variant))
                width = out_width
        layers.append(_conv_norm_activation(width, PENULTIMATE_WIDTH, 1, 1, 1, variant))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(variant.dropout), nn.Linear(PENULTIMATE_WIDTH, num_classes))
        initialize_fan_out(self, linear_std=0.01)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool_and_classify(self.features(images))

    def forward_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the stem, of the stages of 24, 32 and 96 channels (linear, as they leave them), and of the last 1x1."""
        return maps_at(MAP_LAYERS, self.features, images)

    def pool_and_classify(self, last_map: torch.Tensor) -> torch.Tensor:
        """Logits [B,K] of the last 1x1 convolution's activated output."""
        return self.classifier(last_map.mean((2, 3)))


def _conv_norm_activation(
    in_width: int, out_width: int, kernel: int, stride: int, groups: int, variant: MobileNetV2Variant
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_width, out_width, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_width),
        nn.ReLU6(inplace=True) if variant.clipped else nn.ReLU(inplace=True),
    )
