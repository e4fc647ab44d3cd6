"""What the sources of procedural images have in common."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from raydfkd.errors import ConfigError

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


class ImageSource(Protocol):
    """Makes images without end, the same for the same state of its generator."""

    def render(self, count: int, generator: torch.Generator) -> Tensor:
        """Images [count,C,H,W] in [0,1], float32, on the source's device; ``generator`` is a CPU one."""
        ...


def require_grey_or_colour(channels: int) -> None:
    """Raises ConfigError for images that have neither 1 nor 3 channels."""
    if channels not in (1, 3):
        raise ConfigError(f"procedural images have 1 channel or 3, task.image_shape has {channels}: use another method")


def in_channels(images_BCHW: Tensor, channels: int) -> Tensor:
    """Colour images as they are, or grey."""
    if channels == images_BCHW.shape[1]:
        return images_BCHW
    weights = torch.tensor(LUMA, device=images_BCHW.device).view(1, 3, 1, 1)
    return (images_BCHW * weights).sum(1, keepdim=True)


def reduced(images_BCHW: Tensor, factor: int) -> Tensor:
    """The mean of each ``factor`` x ``factor`` square."""
    return images_BCHW if factor == 1 else F.avg_pool2d(images_BCHW, factor)


def to_uint8(images: Tensor) -> Tensor:
    """[0,1] to 0..255, rounded."""
    return (images * 255).round_().clamp_(0, 255).to(torch.uint8)
