"""The class-conditional residual generator of ADC-GAN, which HiDFD trains (BigGAN, Brock et al., ICLR 2019, arXiv 1809.11096).

Parameter counts are those of the published code. Where we deviate: images come out in [0,1] as from every generator here, the
last tanh in float32; shortcuts convolve 1x1 before they enlarge (the same function for a quarter of the work); there is no
self-attention, which the HiDFD and ADC-GAN recipes switch off.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydfkd.models.residual_layout import Conditioning, latent_chunk, residual_layout
from raydfkd.models.spectral_layers import INITIAL_STD, SpectralConv2d, SpectralLinear

SHARED_DIM = 128
"""Width of the class embedding that shared and hierarchical conditioning read."""


class ResidualGenerator(nn.Module):
    """Latents [B,Z] and classes int64 [B] to images [B,C,H,W], float32 in [0,1].

    In evaluation mode (a copy that averages the weights, say) the image of a latent does not depend on its batch: the
    running BatchNorm statistics and the stored singular vectors are used, so such a copy must copy both kinds of buffer too.

    Args:
        image_shape: (C, H, W); ``RESIDUAL_LAYOUTS`` has the sizes.
        num_classes: K.
        latent_dim: Z; for hierarchical conditioning a multiple of the number of blocks + 1.
        base_channels: 64 gives the published widths; all widths are proportional to it.
        conditioning: how the class acts, see :data:`Conditioning`.

    Raises:
        ConfigError: there is no layout for that image size, or ``latent_dim`` cannot be split as ``conditioning`` needs.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        latent_dim: int = 128,
        base_channels: int = 64,
        conditioning: Conditioning = "per_layer",
    ) -> None:
        super().__init__()
        layout = residual_layout(image_shape)
        widths = [width * base_channels for width in layout.generator_widths]
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.latent_dim = latent_dim
        self.chunk = latent_chunk(layout, latent_dim, conditioning)
        self.seed_shape = (widths[0], layout.start_side, layout.start_side)
        self.class_embedding = None if conditioning == "per_layer" else class_table(num_classes, SHARED_DIM)
        condition_dim = {"per_layer": None, "shared": SHARED_DIM, "hierarchical": SHARED_DIM + self.chunk}[conditioning]
        self.first_linear = SpectralLinear(self.chunk, widths[0] * layout.start_side**2)
        self.blocks = nn.ModuleList(
            UpBlock(in_width, out_width, num_classes, condition_dim) for in_width, out_width in pairwise(widths)
        )
        self.last_norm = nn.BatchNorm2d(widths[-1])
        self.to_image = SpectralConv2d(widths[-1], image_shape[0], 3)

    def forward(self, latents_BZ: Tensor, classes_B: Tensor) -> Tensor:
        seed_latents, *block_latents = latents_BZ.split(self.chunk, dim=1)
        shared = classes_B if self.class_embedding is None else self.class_embedding(classes_B)
        x = self.first_linear(seed_latents).view(-1, *self.seed_shape)
        for i, block in enumerate(self.blocks):
            x = block(x, torch.cat([shared, block_latents[i]], 1) if block_latents else shared)
        x = self.to_image(F.relu(self.last_norm(x)))
        return (torch.tanh(x.float()) + 1) / 2


class UpBlock(nn.Module):
    """Conditional norm, ReLU, nearest x2, conv3x3, conditional norm, ReLU, conv3x3; plus a shortcut of x2 and conv1x1."""

    def __init__(self, in_width: int, out_width: int, num_classes: int, condition_dim: int | None) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm2d(in_width, num_classes, condition_dim)
        self.conv1 = SpectralConv2d(in_width, out_width, 3)
        self.norm2 = ConditionalBatchNorm2d(out_width, num_classes, condition_dim)
        self.conv2 = SpectralConv2d(out_width, out_width, 3)
        self.shortcut = SpectralConv2d(in_width, out_width, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = self.conv1(double(F.relu(self.norm1(x, condition))))
        hidden = self.conv2(F.relu(self.norm2(hidden, condition)))
        return hidden + double(self.shortcut(x))


class ConditionalBatchNorm2d(nn.Module):
    """BatchNorm without affine weights; then x * (1 + gain) + bias, both a function of the condition.

    Args:
        width: channels normalised.
        num_classes: K.
        condition_dim: None: the condition is a class [B], looked up in a table of K rows; else a vector [B,condition_dim].
    """

    def __init__(self, width: int, num_classes: int, condition_dim: int | None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.gain, self.bias = (
            class_table(num_classes, width) if condition_dim is None else SpectralLinear(condition_dim, width, bias=False)
            for _ in range(2)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain = (1 + self.gain(condition).float()).to(x.dtype)
        bias = self.bias(condition).to(x.dtype)
        return self.norm(x) * gain[:, :, None, None] + bias[:, :, None, None]


def class_table(num_classes: int, width: int) -> nn.Embedding:
    """One row per class, initialised from N(0,.02)."""
    table = nn.Embedding(num_classes, width)
    nn.init.normal_(table.weight, 0.0, INITIAL_STD)
    return table


def double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
