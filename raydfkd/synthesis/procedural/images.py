"""Base classes for kinds of procedural images: settings, registry entry and image source.

A kind is one file: a subclass of ``ImagesConfig``, an ``ImageSource``, and an ``ImagesKind`` that is named in one line of
``image_kinds.py``. Importing it imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from raydfkd.deferred import deferred
from raydfkd.errors import ConfigError
from raydfkd.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F

    from raydfkd.data.dataset_kind import DatasetConfig
    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    torch, F = deferred("torch"), deferred("torch.nn.functional")

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


class ImageSource(Protocol):
    """An endless source of images, deterministic for a given generator state."""

    def render(self, count: int, generator: torch.Generator) -> Tensor:
        """Images [count,C,H,W] in [0,1], float32, on the source's device; ``generator`` is a CPU one."""
        ...


class ImagesConfig(Settings):
    """What every kind of procedural images has."""

    kind: str
    """Kind of images."""

    @property
    def datasets_read(self) -> tuple[DatasetConfig, ...]:
        """Data sets whose pictures the images are made from."""
        return ()


@dataclass(frozen=True)
class ImagesKind:
    """A kind of procedural images.

    Attributes:
        config: its settings.
        build: makes its source for a teacher's images, on a device.
        title: for display.
    """

    config: type[ImagesConfig]
    build: Callable[[Any, FrozenTeacher, torch.device], ImageSource]
    title: str


def require_grey_or_colour(channels: int) -> None:
    """Raises ConfigError for images that have neither 1 nor 3 channels."""
    if channels not in (1, 3):
        raise ConfigError(f"procedural images have 1 channel or 3, task.image_shape has {channels}: use a different method")


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
