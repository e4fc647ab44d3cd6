"""Affine warps and elastic deformation, batched: every image has its own transform. Pixels outside the image are 0
unless another padding is asked for."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

_SMALL, _LARGE = 32, 224
_ALPHAS, _SIGMAS = (12.0, 50.0), (3.0, 5.0)


def affine(images: Tensor, matrices_B23: Tensor, padding: Literal["zeros", "border"] = "zeros") -> Tensor:
    """Samples each image bilinearly where its matrix says.

    Args:
        images: float [B,C,H,W].
        matrices_B23: float32 [B,2,3] on the same device: (x, y) of an output pixel, from the image's centre in pixels, to
            that of the input point whose value it gets.
        padding: what lies outside the image: 0, or the nearest pixel.
    """
    height, width = images.shape[2:]
    # torch's grids reach from -1 to 1 over the image, whatever its size.
    half = _constants(matrices_B23, width / 2, height / 2)
    scale = torch.cat([half, half.new_ones(1)])
    theta = matrices_B23 * scale / half[:, None]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def shear_x(amounts_B: Tensor, height: int) -> Tensor:
    """Matrices [B,2,3] that move rows sideways in proportion to their distance from the upper edge."""
    matrices = _identity(amounts_B)
    matrices[:, 0, 1] = amounts_B
    matrices[:, 0, 2] = amounts_B * height / 2
    return matrices


def shear_y(amounts_B: Tensor, width: int) -> Tensor:
    """Matrices [B,2,3] that move columns up or down in proportion to their distance from the left edge."""
    matrices = _identity(amounts_B)
    matrices[:, 1, 0] = amounts_B
    matrices[:, 1, 2] = amounts_B * width / 2
    return matrices


def translate(right_B: Tensor, down_B: Tensor) -> Tensor:
    """Matrices [B,2,3] that translate images by these numbers of pixels."""
    matrices = _identity(right_B)
    matrices[:, 0, 2], matrices[:, 1, 2] = -right_B, -down_B
    return matrices


def rotate(degrees_B: Tensor) -> Tensor:
    """Matrices [B,2,3] that turn images anti-clockwise about their centres."""
    angles = torch.deg2rad(degrees_B)
    matrices = _identity(degrees_B)
    matrices[:, 0, 0] = matrices[:, 1, 1] = angles.cos()
    matrices[:, 0, 1], matrices[:, 1, 0] = -angles.sin(), angles.sin()
    return matrices


def elastic(images: Tensor, displacements_B2HW: Tensor) -> Tensor:
    """Samples each image bilinearly at its pixels' places moved by (x, y) ``displacements_B2HW``, in pixels."""
    height, width = images.shape[2:]
    centred = torch.eye(2, 3, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(centred, list(images.shape), align_corners=False)
    # In two planes, since a grid's last axis holds x and y.
    moved = displacements_B2HW / _constants(displacements_B2HW, width / 2, height / 2).view(1, 2, 1, 1)
    return F.grid_sample(images, grid + moved.permute(0, 2, 3, 1), mode="bilinear", padding_mode="zeros", align_corners=False)


def elastic_displacements(
    num: int, size: tuple[int, int], alpha: float | None, sigma: float | None, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Smooth random displacement fields [num,2,H,W] in pixels (Simard et al. 2003, with torchvision's meaning of alpha).

    Uniform noise in [-1, 1], smoothed by a Gaussian of ``sigma`` pixels, times alpha / 2. The image is zero-padded:
    the noise is 0 beyond the edge, so that any size works.

    Args:
        generator: a CPU generator; it seeds one on the device, which draws the noise (a field a pixel would take the CPU
            longer than the rest of the step).
    """
    noise = torch.rand(num, 2, *size, generator=torch.Generator(device).manual_seed(draw_seed(generator)), device=device)
    return smoothed_displacements(noise, alpha, sigma)


def draw_seed(generator: torch.Generator) -> int:
    """A seed from a CPU generator, for one on a device."""
    return int(torch.randint(0, 2**62, (), generator=generator))


def smoothed_displacements(noise_N2HW: Tensor, alpha: float | None, sigma: float | None) -> Tensor:
    """As :func:`elastic_displacements`, from noise that is uniform in [0, 1), which is overwritten."""
    side = min(noise_N2HW.shape[2:])
    alpha = _by_size(_ALPHAS, side) if alpha is None else alpha
    sigma = _by_size(_SIGMAS, side) if sigma is None else sigma
    return smooth(noise_N2HW.mul_(2).sub_(1), sigma).mul_(alpha / 2)


def smooth(planes_NCHW: Tensor, sigma: float) -> Tensor:
    """Gaussian of ``sigma`` pixels over planes that are 0 outside.

    A product with a matrix on either side: on CPUs many times faster than convolutions of one channel.
    """
    rows, columns = (_gaussian(length, sigma, planes_NCHW.device).to(planes_NCHW.dtype) for length in planes_NCHW.shape[2:])
    return rows @ planes_NCHW @ columns


def _gaussian(length: int, sigma: float, device: torch.device) -> Tensor:
    """float32 [length,length]: the weight of each position for every other. Made on the device, where nothing waits for it."""
    reach = max(length, math.ceil(6 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=device) / sigma) ** 2)
    places = torch.arange(length, device=device)
    return (weights / weights.sum())[places[:, None] - places + reach]


def _by_size(values: tuple[float, float], side: int) -> float:
    """Between the values for 32 and for 224 pixels, and on beyond them, in proportion; never below half the first."""
    share = (side - _SMALL) / (_LARGE - _SMALL)
    return max(values[0] / 2, values[0] + share * (values[1] - values[0]))


def _identity(like_B: Tensor) -> Tensor:
    return torch.eye(2, 3, dtype=like_B.dtype, device=like_B.device).repeat(len(like_B), 1, 1)


def _constants(like: Tensor, *values: float) -> Tensor:
    """[n] of the type and device of ``like``; filled there, since a tensor made from a list is copied, and waited for."""
    return torch.stack([like.new_full((), value) for value in values])
