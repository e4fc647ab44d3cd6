"""G-std and G-large: linear, then two nearest-neighbour upsamplings with convolutions (the generator of DAFL, CMI and Fast);
and DFAD's generator for images of 64 to 128 pixels, with four transposed convolutions.

Our one deviation: the sigmoid is always computed in float32, because bfloat16 has fewer levels near 1 than an 8-bit image.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

INITIAL_STD = 0.02


class LatentGenerator(nn.Module):
    """Latents [B,Z] to images [B,C,H,W], float32 in [0,1]: a linear layer to a small map, BatchNorm, what enlarges the map, a
    3x3 convolution, sigmoid.

    Args:
        image_shape: (C, H, W).
        latent_dim: Z.
        seed_shape: (channels, height, width) of the small map.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, seed_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.image_shape = image_shape
        self.seed_shape = seed_shape
        width, height, length = seed_shape
        self.first_linear = nn.Linear(latent_dim, width * height * length)
        self.first_norm = nn.BatchNorm2d(width)

    def enlarge(self, seed: torch.Tensor) -> torch.Tensor:
        """From the normalised small map to the image before its sigmoid."""
        raise NotImplementedError

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        seed = self.first_linear(latents).view(-1, *self.seed_shape)
        return torch.sigmoid(self.enlarge(self.first_norm(seed)).float())

    @torch.no_grad()
    def reset_first_layer(self, bn_weight_mean: float = 0.0, generator: torch.Generator | None = None) -> None:
        """Re-draws the first layer (Fast's ``reset_l0``): linear weight N(0,.02), its bias 0, first BN weight N(mean,.02).

        The mean 0 is the reference code read literally; 1 is what was probably intended.
        ``generator`` is a CPU generator whatever the network's device, so that the draws are the same on every one.
        """
        for weight, mean in ((self.first_linear.weight, 0.0), (self.first_norm.weight, bn_weight_mean)):
            weight.copy_(torch.empty(weight.shape).normal_(mean, INITIAL_STD, generator=generator))
        self.first_linear.bias.zero_()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Re-draws the whole network as CMI does for each batch: linear and convolution weights N(0,.02), their biases 0,
        BN weights N(1,.02), their biases 0. ``generator`` is a CPU generator; None: torch's global one."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
                mean = 1.0 if isinstance(layer, nn.BatchNorm2d) else 0.0
                layer.weight.copy_(torch.empty(layer.weight.shape).normal_(mean, INITIAL_STD, generator=generator))
                if layer.bias is not None:
                    layer.bias.zero_()


class UpsamplingGenerator(LatentGenerator):
    """Two nearest-neighbour upsamplings. Weights start at PyTorch's defaults, as in the reference code.

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
        channels, height, width = image_shape
        seed_width, half_width, full_width = (m * base_channels for m in multipliers)
        super().__init__(image_shape, latent_dim, (seed_width, height // 4, width // 4))
        self.half_scale = upsample_block(seed_width, half_width)
        self.full_scale = upsample_block(half_width, full_width)
        self.to_image = nn.Conv2d(full_width, channels, 3, 1, 1)

    def enlarge(self, seed: torch.Tensor) -> torch.Tensor:
        return self.to_image(self.full_scale(self.half_scale(seed)))

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


class TransposedGenerator(LatentGenerator):
    """DFAD's generator for segmentation (Fang et al., arXiv 1912.11006): four transposed convolutions 4x4 of stride 2.

    Weights start at N(0,.02), those of BatchNorm at N(1,.02). The published one ends in a tanh; the sigmoid is that of later
    re-implementations, whose images are in [0,1].

    Args:
        image_shape: (C, H, W); H and W are multiples of 16.
        latent_dim: Z.
        base_channels: ``ngf``.
        multipliers: widths in units of ``base_channels`` at 1/16, 1/8, 1/4, 1/2 and full resolution.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], latent_dim: int, base_channels: int, multipliers: tuple[int, ...]
    ) -> None:
        channels, height, width = image_shape
        widths = [m * base_channels for m in multipliers]
        factor = 2 ** (len(widths) - 1)
        super().__init__(image_shape, latent_dim, (widths[0], height // factor, width // factor))
        self.steps = nn.Sequential(*(_transposed_block(before, after) for before, after in pairwise(widths)))
        self.to_image = nn.Conv2d(widths[-1], channels, 3, 1, 1)
        self.reset()

    def enlarge(self, seed: torch.Tensor) -> torch.Tensor:
        return self.to_image(self.steps(seed))


def upsample_block(in_width: int, out_width: int) -> nn.Sequential:
    """Nearest x2, conv3x3 without bias, BN, LeakyReLU .2."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(in_width, out_width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(out_width),
        nn.LeakyReLU(0.2, inplace=True),
    )


def _transposed_block(in_width: int, out_width: int) -> nn.Sequential:
    """Transposed conv4x4 of stride 2 without bias, BN, LeakyReLU .2."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_width, out_width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(out_width),
        nn.LeakyReLU(0.2, inplace=True),
    )
