"""Images of random phases under a natural spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.synthesis.procedural.images import ImagesConfig, ImagesKind

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")


class SpectralImagesConfig(ImagesConfig):
    """Random phases under the spectra of natural images (Baradad et al., NeurIPS 2021)."""

    kind: Literal["spectral"] = "spectral"
    """Kind of images."""
    min_exponent: float = Field(0.5, ge=0)
    """Smallest exponent of the falling amplitudes."""
    max_exponent: float = Field(3.5, ge=0)
    """Largest exponent of the falling amplitudes."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_exponent > self.max_exponent:
            raise ValueError(f"min_exponent {self.min_exponent:g} is above max_exponent {self.max_exponent:g}: swap them")
        return self


class SpectralNoise:
    """Random phases under the amplitudes |F(fx, fy)| = 1 / (|fx|^a + |fy|^b), a and b uniform for each image.

    The "spectrum" model of Baradad et al., "Learning to See by Looking at Noise" (NeurIPS 2021), whose exponents are those of
    natural images, [0.5, 3.5]. Ours: the phases are those of white Gaussian noise, so that amplitudes vary a little; the
    channels share a random part of their noise, so that colours are neither grey nor independent; each image is stretched to
    [0,1] as a whole.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], device: torch.device, min_exponent: float = 0.5, max_exponent: float = 3.5
    ) -> None:
        self._shape = image_shape
        self._device = device
        self._exponents = (min_exponent, max_exponent)

    def render(self, count: int, generator: torch.Generator) -> Tensor:
        channels, height, width = self._shape
        low, high = self._exponents
        exponents = (low + (high - low) * torch.rand(count, 2, generator=generator)).to(self._device)
        shared = torch.rand(count, 1, 1, 1, generator=generator).to(self._device)
        white = torch.randn(count, channels + 1, height, width, generator=generator).to(self._device)
        white = shared * white[:, :1] + (1 - shared) * white[:, 1:]
        spectrum = torch.fft.rfft2(white) * spectral_amplitudes(exponents, height, width)[:, None]
        images = torch.fft.irfft2(spectrum, s=(height, width))
        lowest, highest = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        return (images - lowest) / (highest - lowest).clamp(min=1e-12)


def spectral_amplitudes(exponents_B2: Tensor, height: int, width: int) -> Tensor:
    """1 / (|fx|^a + |fy|^b) [B,H,W//2+1], f in periods an image; the mean (frequency 0) has amplitude 0."""
    device = exponents_B2.device
    fy = (torch.fft.fftfreq(height, device=device) * height).abs().view(1, height, 1)
    fx = (torch.fft.rfftfreq(width, device=device) * width).view(1, 1, width // 2 + 1)
    a, b = exponents_B2[:, 0].view(-1, 1, 1), exponents_B2[:, 1].view(-1, 1, 1)
    amplitudes = 1.0 / (fx**a + fy**b).clamp(min=1e-12)
    amplitudes[:, 0, 0] = 0.0
    return amplitudes


IMAGES = ImagesKind(
    config=SpectralImagesConfig,
    build=lambda config, teacher, device: SpectralNoise(teacher.image_shape, device, config.min_exponent, config.max_exponent),
    title="random phases under the spectra of natural images",
)
