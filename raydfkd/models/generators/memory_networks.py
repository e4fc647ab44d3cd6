"""PRE-DFKD's networks (Binici et al., AAAI 2022): DAFL's generator, as novel generator and as decoder of the memory, and the
memory's encoder.

Layer for layer the published ones, with the BatchNorm epsilons of 0.8 of DAFL's code. Where we deviate: images come out in
[0,1] as from every generator here, so the published output, which is in the teacher's normalised space, is mapped back and
cut to that range; convolutions with spectral norm start as all of this package's do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydfkd.errors import ConfigError
from raydfkd.models.spectral_layers import SpectralConv2d

DAFL_EPSILON = 0.8
INITIAL_RANGE = 0.08
"""Weights start uniform in plus or minus this, biases at 0."""


class NormalizedGenerator(nn.Module):
    """Latents [B,Z] to images [B,C,H,W], float32 in [0,1]: linear, BN, two times (nearest x2, conv3x3, BN, LeakyReLU .2),
    conv3x3, tanh, BN without affine weights, then times ``std`` plus ``mean``, cut to [0,1].

    Args:
        image_shape: (C, H, W); H and W are multiples of 4.
        latent_dim: Z.
        base_channels: 64 gives the published widths.
        mean, std: of each channel of what the teacher was trained on.
        spectral: convolutions have spectral norm 1 (the novel generator's do, the decoder's do not).

    Raises:
        ConfigError: it cannot make images of that size.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        base_channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        spectral: bool,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        if height % 4 or width % 4:
            raise ConfigError(f"this generator cannot make images of {image_shape}: height and width must be multiples of 4")
        seed_width = 2 * base_channels
        self.seed_shape = (seed_width, height // 4, width // 4)
        self.first_linear = nn.Linear(latent_dim, seed_width * (height // 4) * (width // 4))
        self.first_norm = nn.BatchNorm2d(seed_width)
        self.half_scale = _upsampling(seed_width, seed_width, spectral)
        self.full_scale = _upsampling(seed_width, base_channels, spectral)
        self.to_image = _convolution(base_channels, channels, spectral)
        self.last_norm = nn.BatchNorm2d(channels, affine=False)
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(tuple(std)).view(1, -1, 1, 1))
        self.apply(_initialize)

    def forward(self, latents_BZ: Tensor) -> Tensor:
        seed = self.first_linear(latents_BZ).view(-1, *self.seed_shape)
        x = self.to_image(self.full_scale(self.half_scale(self.first_norm(seed))))
        return (self.last_norm(torch.tanh(x.float())) * self.std + self.mean).clamp(0, 1)


class MemoryEncoder(nn.Module):
    """Normalised images [B,C,H,W] to mean and log variance [B,Z] of their latents.

    Each image column is divided by its L2 norm; conv3x3, BN, LeakyReLU .2 twice; nearest x1/2; conv3x3 of stride 2, BN;
    nearest x1/2; a linear layer each.

    Args:
        image_shape: (C, H, W); H and W are multiples of 8.
        latent_dim: Z.
        base_channels: 64 gives the published widths.

    Raises:
        ConfigError: it cannot take images of that size.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, base_channels: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        if height % 8 or width % 8:
            raise ConfigError(f"this encoder cannot take images of {image_shape}: height and width must be multiples of 8")
        wide = 2 * base_channels
        self.full_scale = nn.Sequential(
            *(nn.Conv2d(channels, base_channels, 3, 1, 1), nn.BatchNorm2d(base_channels, DAFL_EPSILON), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(base_channels, wide, 3, 1, 1), nn.BatchNorm2d(wide, DAFL_EPSILON), nn.LeakyReLU(0.2)),
        )
        self.half_scale = nn.Sequential(nn.Conv2d(wide, wide, 3, 2, 1), nn.BatchNorm2d(wide))
        self.to_mean = nn.Linear(wide * (height // 8) * (width // 8), latent_dim)
        self.to_log_variance = nn.Linear(wide * (height // 8) * (width // 8), latent_dim)
        self.apply(_initialize)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.full_scale(F.normalize(images, dim=2))
        x = F.interpolate(self.half_scale(F.interpolate(x, scale_factor=0.5)), scale_factor=0.5).flatten(1)
        return self.to_mean(x).float(), self.to_log_variance(x).float()


def _upsampling(in_width: int, out_width: int, spectral: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        _convolution(in_width, out_width, spectral),
        nn.BatchNorm2d(out_width, DAFL_EPSILON),
        nn.LeakyReLU(0.2, inplace=True),
    )


def _convolution(in_width: int, out_width: int, spectral: bool) -> nn.Conv2d:
    return SpectralConv2d(in_width, out_width, 3) if spectral else nn.Conv2d(in_width, out_width, 3, 1, 1)


def _initialize(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | nn.Conv2d) and not isinstance(layer, SpectralConv2d):
        nn.init.uniform_(layer.weight, -INITIAL_RANGE, INITIAL_RANGE)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
