"""G-std and G-large: linear, then two nearest-neighbour upsamplings with convolutions (the generator of DAFL, CMI and Fast).

Our one deviation: the sigmoid is always computed in float32, because bfloat16 has fewer levels near 1 than an 8-bit image.
"""

from __future__ import annotations

import torch
from torch import nn


class UpsamplingGenerator(nn.Module):
    """Latents [B,Z] to images [B,C,H,W], float32 in [0,1]. Weights start at PyTorch's defaults, as in the reference code.

    Args:
        image_shape: (C, H, W); H and W are multiples of 4.
        latent_dim: Z.
        base_channels: the papers' ``ngf``.
        multipliers: widths in units of ``base_channels`` at 1/4, 1/2 and full resolution.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        base_channels: int,
        multipliers: tuple[int, int, int] = (2, 2, 1),
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        seed_width, half_width, full_width = (m * base_channels for m in multipliers)
        self.latent_dim = latent_dim
        self.image_shape = image_shape
        self.seed_shape = (seed_width, height // 4, width // 4)
        self.first_linear = nn.Linear(latent_dim, seed_width * (height // 4) * (width // 4))
        self.first_norm = nn.BatchNorm2d(seed_width)
        self.half_scale = upsample_block(seed_width, half_width)
        self.full_scale = upsample_block(half_width, full_width)
        self.to_image = nn.Conv2d(full_width, channels, 3, 1, 1)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        seed = self.first_norm(self.first_linear(latents).view(-1, *self.seed_shape))
        return self.decode(seed, 0)

    @torch.no_grad()
    def reset_first_layer(self, bn_weight_mean: float = 0.0, generator: torch.Generator | None = None) -> None:
        """Re-draws the first layer (Fast's ``reset_l0``): linear weight N(0,.02), its bias 0, first BN weight N(mean,.02).

        The mean 0 is the reference code read literally; 1 is what was probably intended.
        ``generator`` is a CPU generator whatever the network's device, so that the draws are the same on every one.
        """
        for weight, mean in ((self.first_linear.weight, 0.0), (self.first_norm.weight, bn_weight_mean)):
            weight.copy_(torch.empty(weight.shape).normal_(mean, 0.02, generator=generator))
        self.first_linear.bias.zero_()

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Re-draws the whole network as CMI does for each batch: linear and convolution weights N(0,.02), their biases 0,
        BN weights N(1,.02), their biases 0. ``generator`` is a CPU generator."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
                mean = 1.0 if isinstance(layer, nn.BatchNorm2d) else 0.0
                layer.weight.copy_(torch.empty(layer.weight.shape).normal_(mean, 0.02, generator=generator))
                if layer.bias is not None:
                    layer.bias.zero_()

    def maps(self, latents: torch.Tensor) -> list[torch.Tensor]:
        """Hidden maps [B,C,h,w] at 1/4 (the normalised seed), 1/2 and full resolution."""
        seed = self.first_norm(self.first_linear(latents).view(-1, *self.seed_shape))
        half = self.half_scale(seed)
        return [seed, half, self.full_scale(half)]

    def decode(self, hidden: torch.Tensor, index: int) -> torch.Tensor:
        """Images from the hidden map of this index in ``maps``."""
        for layer in (self.half_scale, self.full_scale)[index:]:
            hidden = layer(hidden)
        return torch.sigmoid(self.to_image(hidden).float())


def upsample_block(in_width: int, out_width: int) -> nn.Sequential:
    """Nearest x2, conv3x3 without bias, BN, LeakyReLU .2."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(in_width, out_width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(out_width),
        nn.LeakyReLU(0.2, inplace=True),
    )
