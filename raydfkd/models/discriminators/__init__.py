"""Discriminators of real and synthetic images; importing this imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raydfkd.errors import ConfigError
from raydfkd.models.residual_layout import residual_layout
from raydfkd.registry import Registry

if TYPE_CHECKING:
    from raydfkd.models.discriminators.residual_discriminator import ResidualDiscriminator

DISCRIMINATORS: Registry[Callable[[tuple[int, int, int], int, int], ResidualDiscriminator]] = Registry("discriminator")
"""(image_shape, num_classes, base_channels) to a network."""


def build_discriminator(
    name: str, image_shape: tuple[int, int, int], num_classes: int, base_channels: int = 64
) -> ResidualDiscriminator:
    """The discriminator ``name`` ("residual") for images of ``image_shape`` = (C, H, W) in ``num_classes`` classes.

    Raises:
        UnknownNameError: there is no discriminator of that name.
        ConfigError: it cannot take images of that size, or a number is below 1.
    """
    build = DISCRIMINATORS.get(name)
    if num_classes < 1 or base_channels < 1:
        raise ConfigError(
            f"discriminator {name!r} needs num_classes and base_channels of at least 1, got {num_classes}, {base_channels}"
        )
    return build(image_shape, num_classes, base_channels)


@DISCRIMINATORS.register("residual")
def _residual(image_shape: tuple[int, int, int], num_classes: int, base_channels: int) -> ResidualDiscriminator:
    residual_layout(image_shape)  # refuses a size before torch is loaded
    from raydfkd.models.discriminators.residual_discriminator import ResidualDiscriminator

    return ResidualDiscriminator(image_shape, num_classes, base_channels)
