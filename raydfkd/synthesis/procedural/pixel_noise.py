"""Images of independent pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raydfkd.deferred import deferred
from raydfkd.synthesis.procedural.images import ImagesConfig, ImagesKind

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.models.teachers.frozen_teacher import Normalization
else:
    torch = deferred("torch")


class NoiseImagesConfig(ImagesConfig):
    """Independent pixels, drawn from the teacher's normalisation statistics."""

    kind: Literal["noise"] = "noise"
    """Kind of images."""


class PixelNoise:
    """Each pixel of each channel from N(mean, std^2) of the teacher's training images, clipped to [0,1].

    This is "Noise" of "What Makes a Good Dataset for Knowledge Distillation?", with the teacher's own statistics.
    """

    def __init__(self, normalization: Normalization, image_shape: tuple[int, int, int], device: torch.device) -> None:
        self._mean = normalization.mean.to(device).view(1, -1, 1, 1)
        self._std = normalization.std.to(device).view(1, -1, 1, 1)
        self._shape = image_shape

    def render(self, count: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(count, *self._shape, generator=generator).to(self._mean.device)
        return torch.addcmul(self._mean, noise, self._std).clamp_(0.0, 1.0)


IMAGES = ImagesKind(
    config=NoiseImagesConfig,
    build=lambda config, teacher, device: PixelNoise(teacher.normalization, teacher.image_shape, device),
    title="independent pixels from the teacher's normalisation statistics",
)
