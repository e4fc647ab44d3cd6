"""Generators, latent vectors (and classes) to images in [0,1]; importing this imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raydfkd.errors import ConfigError
from raydfkd.models.residual_layout import Conditioning, latent_chunk, residual_layout
from raydfkd.registry import Registry

if TYPE_CHECKING:
    from raydfkd.models.generators.residual_generator import ResidualGenerator
    from raydfkd.models.generators.upsampling import LatentGenerator

GENERATORS: Registry[tuple[int, ...]] = Registry("generator")
"""Widths, in units of ``base_channels``, of the seed map and of the maps that it is enlarged to, each twice as high and wide.
Two enlargements are nearest-neighbour upsamplings, four are transposed convolutions."""

GENERATORS.add("standard", (2, 2, 1))
GENERATORS.add("large", (4, 2, 1))
GENERATORS.add("transposed", (8, 4, 2, 1, 1))


def build_generator(
    name: str, image_shape: tuple[int, int, int], latent_dim: int = 256, base_channels: int = 64
) -> LatentGenerator:
    """The generator ``name`` ("standard", "large" or "transposed") for images of ``image_shape`` = (C, H, W).

    Raises:
        UnknownNameError: there is no generator of that name.
        ConfigError: a side of the image is not a positive multiple of 4, of "transposed" of 16.
    """
    widths = GENERATORS.get(name)
    multiple = 2 ** (len(widths) - 1)
    channels, height, width = image_shape
    if min(channels, height, width) < 1 or height % multiple != 0 or width % multiple != 0:
        raise ConfigError(
            f"generator {name!r} cannot make images of {image_shape}: height and width must be multiples of {multiple}"
        )
    if latent_dim < 1 or base_channels < 1:
        raise ConfigError(
            f"generator {name!r} needs latent_dim and base_channels of at least 1, got {latent_dim}, {base_channels}"
        )
    from raydfkd.models.generators.upsampling import TransposedGenerator, UpsamplingGenerator

    if len(widths) == 3:
        return UpsamplingGenerator(image_shape, latent_dim, base_channels, (widths[0], widths[1], widths[2]))
    return TransposedGenerator(image_shape, latent_dim, base_channels, widths)


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
