"""Generators, latent vectors (and classes) to images in [0,1]; importing this imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raydfkd.errors import ConfigError
from raydfkd.models.residual_layout import Conditioning, latent_chunk, residual_layout
from raydfkd.registry import Registry

if TYPE_CHECKING:
    from raydfkd.models.generators.residual_generator import ResidualGenerator
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


CONDITIONAL_GENERATORS: Registry[Callable[[tuple[int, int, int], int, int, int, Conditioning], ResidualGenerator]] = Registry(
    "conditional generator"
)
"""(image_shape, num_classes, latent_dim, base_channels, conditioning) to a class-conditional network."""


def build_conditional_generator(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    latent_dim: int = 128,
    base_channels: int = 64,
    conditioning: Conditioning = "per_layer",
) -> ResidualGenerator:
    """The class-conditional generator ``name`` ("residual") for images of ``image_shape`` = (C, H, W).

    Raises:
        UnknownNameError: there is no conditional generator of that name.
        ConfigError: it cannot make images of that size, ``latent_dim`` cannot be split as ``conditioning`` needs, or a number
            is below 1.
    """
    build = CONDITIONAL_GENERATORS.get(name)
    if min(num_classes, latent_dim, base_channels) < 1:
        raise ConfigError(
            f"conditional generator {name!r} needs num_classes, latent_dim and base_channels of at least 1, got "
            f"{num_classes}, {latent_dim}, {base_channels}"
        )
    return build(image_shape, num_classes, latent_dim, base_channels, conditioning)


@CONDITIONAL_GENERATORS.register("residual")
def _residual(
    image_shape: tuple[int, int, int], num_classes: int, latent_dim: int, base_channels: int, conditioning: Conditioning
) -> ResidualGenerator:
    latent_chunk(residual_layout(image_shape), latent_dim, conditioning)  # refuses settings before torch is loaded
    from raydfkd.models.generators.residual_generator import ResidualGenerator

    return ResidualGenerator(image_shape, num_classes, latent_dim, base_channels, conditioning)
