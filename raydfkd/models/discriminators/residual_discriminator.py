"""The residual discriminator of ADC-GAN (Hou et al., ICML 2022) with the feature projector of HiDFD (arXiv 2412.13525).

Where we deviate: images come in [0,1] and are mapped to [-1,1] inside; pooling and heads are in float32 under autocast;
shortcuts pool before they convolve 1x1 (the same function for a quarter of the work); the heads of the published code
that the losses never read are left out; no self-attention, which the recipes switch off.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydfkd.models.residual_layout import residual_layout
from raydfkd.models.spectral_layers import SpectralConv2d, SpectralLinear


@dataclass(frozen=True)
class DiscriminatorOutput:
    """A discriminator's outputs for B images, all float32.

    Attributes:
        adversarial: [B], the logit for being real.
        class_logits: [B,2K]; index 2y is "class y and real", 2y+1 "class y and synthetic".
        features: [B,D], the input of both heads (Phi_D): channels summed, not averaged, over all positions.
    """

    adversarial: Tensor
    class_logits: Tensor
    features: Tensor


class ResidualDiscriminator(nn.Module):
    """Images [B,C,H,W] in [0,1] to a :class:`DiscriminatorOutput`; every layer has spectral norm 1.

    Args:
        image_shape: (C, H, W); ``RESIDUAL_LAYOUTS`` has the sizes.
        num_classes: K.
        base_channels: 64 gives the published widths; all widths are proportional to it.

    Attributes:
        feature_dim: D, the width of the features.

    Raises:
        ConfigError: there is no layout for that image size.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, base_channels: int = 64) -> None:
        super().__init__()
        layout = residual_layout(image_shape)
        widths = [image_shape[0], *(width * base_channels for width in layout.discriminator_widths)]
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.feature_dim = widths[-1]
        self.blocks = nn.Sequential(
            *(
                DownBlock(in_width, out_width, first=i == 0, halve=i < layout.num_halvings)
                for i, (in_width, out_width) in enumerate(pairwise(widths))
            )
        )
        self.adversarial_head = SpectralLinear(self.feature_dim, 1)
        self.class_head = SpectralLinear(self.feature_dim, 2 * num_classes)

    def forward(self, images: Tensor) -> DiscriminatorOutput:
        maps = F.relu(self.blocks(2 * images - 1))
        with torch.autocast(images.device.type, enabled=False):
            features = maps.float().sum(dim=(2, 3))
            return DiscriminatorOutput(self.adversarial_head(features).squeeze(1), self.class_head(features), features)


class DownBlock(nn.Module):
    """ReLU (but not in the first block, which sees the image), conv3x3, ReLU, conv3x3, average pool; plus a shortcut.

    The shortcut is conv1x1 where width or side change, with the pool if there is one, and the identity elsewhere.
    """

    def __init__(self, in_width: int, out_width: int, *, first: bool, halve: bool) -> None:
        super().__init__()
        self.first = first
        self.halve = halve
        self.conv1 = SpectralConv2d(in_width, out_width, 3)
        self.conv2 = SpectralConv2d(out_width, out_width, 3)
        self.shortcut = SpectralConv2d(in_width, out_width, 1) if halve or in_width != out_width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if self.halve:
            hidden, x = F.avg_pool2d(hidden, 2), F.avg_pool2d(x, 2)
        return hidden + self.shortcut(x)


class FeatureProjector(nn.Sequential):
    """Discriminator features [B,D] to the width of the teacher's, where the two are compared (HiDFD's official code).

    Two linear layers with nothing between them, as there; trained with the discriminator, without spectral norm.
    """

    def __init__(self, feature_dim: int, teacher_dim: int, hidden_dim: int = 1024) -> None:
        super().__init__(nn.Linear(feature_dim, hidden_dim), nn.Linear(hidden_dim, teacher_dim))
