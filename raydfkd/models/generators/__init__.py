"""Generators, latent vectors to images in [0,1]; importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydfkd.errors import ConfigError
from raydfkd.registry import Registry

if TYPE_CHECKING:
    from raydfkd.models.generators.upsampling import UpsamplingGenerator

GENERATORS: Registry[tuple[int, int, int]] = Registry("generator")
"""Widths, in units of ``base_channels``, of the seed map and of the two upsampled maps."""

GENERATORS.add("standard", (2, 2, 1))
GENERATORS.add("large", (4, 2, 1))


def build_generator(
    name: str, image_shape: tuple[int, int, int], latent_dim: int = 256, base_channels: int = 64
) -> UpsamplingGenerator:
    """The generator ``name`` ("standard" or "large") for images of ``image_shape`` = (C, H, W).

    Raises:
        UnknownNameError: there is no generator of that name.
        ConfigError: a side of the image is not a positive multiple of 4.
    """
    channels, height, width = image_shape
    if min(channels, height, width) < 1 or height % 4 != 0 or width % 4 != 0:
        raise ConfigError(f"generator {name!r} cannot make images of {image_shape}: height and width must be multiples of 4")
    if latent_dim < 1 or base_channels < 1:
        raise ConfigError(
            f"generator {name!r} needs latent_dim and base_channels of at least 1, got {latent_dim}, {base_channels}"
        )
    from raydfkd.models.generators.upsampling import UpsamplingGenerator

    return UpsamplingGenerator(image_shape, latent_dim, base_channels, GENERATORS.get(name))
