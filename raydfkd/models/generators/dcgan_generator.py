"""DCGAN's generator (Radford et al., ICLR 2016) in the form of DeGAN's code: transposed convolutions, then one of 1x1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST_WIDTH = 8
"""Widest layer, in units of ``base_channels``; that of the networks for 32 pixels."""


class DCGANGenerator(nn.Module):
    """Latents [B,Z] to images [B,C,H,W], float32 in [0,1].

    At 32 pixels as published: 4x4 with 8 units of width, three doublings to 1 unit. Ours for other sizes: as many doublings
    as leave a first map of 4x4 or more, and no layer wider than 8 units. The published image, a tanh in [-1,1], is moved to
    [0,1]; like the other generators' it is computed in float32.

    Args:
        image_shape: (C, H, W); H and W are multiples of 4.
        latent_dim: Z.
        base_channels: the unit of width, 64 as published.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, base_channels: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        doublings = num_doublings(image_shape)
        widths = [layer_width(level) * base_channels for level in range(doublings, -1, -1)]
        first = (height // 2**doublings, width // 2**doublings)
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, widths[0], first, bias=False)]
        for wide, narrow in zip(widths, [*widths[1:], None], strict=True):
            layers += [nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
            if narrow is not None:
                layers.append(nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False))
        self.layers = nn.Sequential(*layers)
        self.to_image = nn.ConvTranspose2d(widths[-1], channels, 1, bias=False)
        draw_dcgan_weights(self)

    def forward(self, latents: Tensor) -> Tensor:
        return (torch.tanh(self.to_image(self.layers(latents[:, :, None, None])).float()) + 1) / 2


def num_doublings(image_shape: tuple[int, int, int]) -> int:
    """How often the generator doubles its first map: as often as sides divide and the first map stays 4 x 4 or more."""
    _, height, width = image_shape
    doublings = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 8:
        height, width, doublings = height // 2, width // 2, doublings + 1
    return doublings


def layer_width(level: int) -> int:
    """Channels, in units of ``base_channels``, ``level`` doublings away from the image's side of the network."""
    return min(2**level, LARGEST_WIDTH)


def draw_dcgan_weights(network: nn.Module) -> None:
    """Convolutions N(0, .02), BatchNorm weights N(1, .02) and biases 0, from torch's global random generator."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)
