"""Widths and scales of the residual GAN (the BigGAN family, as in ADC-GAN and HiDFD) for each image size. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from raydfkd.errors import ConfigError

Conditioning = Literal["per_layer", "shared", "hierarchical"]
"""How the class conditions the generator's normalisation layers.

``per_layer``: each has its own table of gains and biases per class. ``shared``: all read one class embedding. ``hierarchical``:
as shared, and each block also reads a part of the latent vector of its own.
"""


@dataclass(frozen=True)
class ResidualLayout:
    """Both networks for one image size; widths are in units of ``base_channels``.

    Attributes:
        start_side: side in pixels of the map that the generator starts from; each of its blocks doubles it.
        generator_widths: of that first map, then of each block's output.
        discriminator_widths: of each block's output.
        num_halvings: how many of the discriminator's blocks, from the first one, halve the side.
    """

    start_side: int
    generator_widths: tuple[int, ...]
    discriminator_widths: tuple[int, ...]
    num_halvings: int

    @property
    def num_blocks(self) -> int:
        """Blocks of the generator."""
        return len(self.generator_widths) - 1


RESIDUAL_LAYOUTS = {
    8: ResidualLayout(2, (4, 4, 4), (4, 4, 4, 4), 1),
    16: ResidualLayout(4, (4, 4, 4), (4, 4, 4, 4), 2),
    28: ResidualLayout(7, (4, 4, 4), (4, 4, 4, 4), 2),
    32: ResidualLayout(4, (4, 4, 4, 4), (4, 4, 4, 4), 2),
    64: ResidualLayout(4, (16, 16, 8, 4, 2), (1, 2, 4, 8, 16), 4),
    128: ResidualLayout(4, (16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),
    256: ResidualLayout(4, (16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6),
}
"""By side in pixels. 32 and more are the published ones; the smaller ones are ours, made from that for 32:
the same width everywhere and the same four discriminator blocks, which halve twice but never below 4x4; in the generator
one block fewer, so two, because fewer would leave a class only two layers to act on. That sets the start side."""


def residual_layout(image_shape: tuple[int, int, int]) -> ResidualLayout:
    """The layout for images of ``image_shape`` = (C, H, W), of any number of channels.

    Raises:
        ConfigError: there is no layout for that size, or no channel.
    """
    channels, height, width = image_shape
    if channels < 1 or height != width or height not in RESIDUAL_LAYOUTS:
        *small, largest = RESIDUAL_LAYOUTS
        raise ConfigError(
            f"the residual GAN has no layout for images of {channels} x {height} x {width} (channels, height, width): it makes "
            f"square images of {', '.join(map(str, small))} or {largest} px and at least one channel, and images of another "
            "size can be made at the next larger one of these and resized"
        )
    return RESIDUAL_LAYOUTS[height]


def latent_chunk(layout: ResidualLayout, latent_dim: int, conditioning: Conditioning) -> int:
    """Width of each equal part of a hierarchical latent vector (one for the start map, one a block); otherwise all of it.

    Raises:
        ConfigError: an unknown conditioning, or the parts cannot be equal (BigGAN's code silently makes the vector smaller).
    """
    if conditioning not in get_args(Conditioning):
        raise ConfigError(f"unknown conditioning {conditioning!r}: known are {', '.join(get_args(Conditioning))}")
    parts = layout.num_blocks + 1 if conditioning == "hierarchical" else 1
    if latent_dim % parts != 0:
        below = max(1, latent_dim // parts) * parts
        raise ConfigError(
            f"latent_dim {latent_dim} does not split into the {parts} equal parts that hierarchical conditioning needs at this "
            f"image size: take {below} or {below + parts}"
        )
    return latent_dim // parts
