"""Differentiable siamese augmentation: real and synthetic images are changed in the same way, so that both can be compared.

Dataset Condensation with Differentiable Siamese Augmentation (Zhao and Bilen, ICML 2021, arXiv 2102.08259), section 3.2: one
of six operations, drawn anew each time, and its parameters, which all images of a draw share. Networks that are trained on
the result see the same operations with parameters of each image's own. Images are normalised, so that what comes in
from outside or is cut out, 0, is the mean colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raydfkd.augment.config import SIAMESE_OPERATIONS, SiameseOperation
from raydfkd.augment.diff_augment import change_color
from raydfkd.augment.erasing import fill_boxes
from raydfkd.augment.geometry import affine, rotate, translate

BRIGHTNESS = 0.5
"""Greatest change of all values of an image."""
SHIFT = 0.125
"""Longest crop shift, in image sides."""
SCALE = 1.2
"""Greatest factor of either side; the smallest is its inverse."""
ROTATION = 15.0
"""Largest angle in degrees."""
CUTOUT = 0.5
"""Side of the square that is cut out, in image sides."""


@dataclass(frozen=True)
class SiameseDraw:
    """One operation and its parameters.

    Attributes:
        operation: its name.
        values: float32 [n,3], uniform in [0,1), on the CPU; n is 1 for one that all images share, or the number of images.
    """

    operation: SiameseOperation
    values: Tensor


def draw_siamese(
    generator: torch.Generator, count: int = 1, operations: tuple[SiameseOperation, ...] = SIAMESE_OPERATIONS
) -> SiameseDraw:
    """A random operation, with parameters for ``count`` images (1: shared by all), from a CPU generator."""
    number = int(torch.randint(len(operations), (), generator=generator))
    return SiameseDraw(operations[number], torch.rand(count, 3, generator=generator))


def siamese_augment(images: Tensor, draw: SiameseDraw) -> Tensor:
    """The drawn operation on each image; differentiable.

    Args:
        images: normalised, float [B,C,H,W] on any device.
        draw: for B images, or for all.
    """
    values_B3 = draw.values.to(images.device).expand(len(images), 3)
    return _OPERATIONS[draw.operation](images, values_B3)


def _color(images: Tensor, values_B3: Tensor) -> Tensor:
    """Brightness plus U(-.5,.5); saturation times U(0,2) about a pixel's mean; contrast times U(.5,1.5) about the image's."""
    return change_color(images, values_B3.T, BRIGHTNESS)


def _crop(images: Tensor, values_B3: Tensor) -> Tensor:
    height, width = images.shape[2:]
    reach = [int(SHIFT * side + 0.5) for side in (width, height)]
    right, down = ((values_B3[:, i] * (2 * reach[i] + 1)).floor() - reach[i] for i in (0, 1))
    return affine(images, translate(right, down))


def _cutout(images: Tensor, values_B3: Tensor) -> Tensor:
    sides = images.shape[2:]
    rows, columns = sizes = [int(CUTOUT * side + 0.5) for side in sides]
    top, left = (
        ((values_B3[:, axis] * (side + (1 - size % 2))).floor() - size // 2)[:, None]
        for axis, (side, size) in enumerate(zip(sides, sizes, strict=True))
    )
    return fill_boxes(images, top, left, rows, columns, 0.0)


def _flip(images: Tensor, values_B3: Tensor) -> Tensor:
    return torch.where((values_B3[:, 0] < 0.5).view(-1, 1, 1, 1), images.flip(3), images)


def _scale(images: Tensor, values_B3: Tensor) -> Tensor:
    factors_B2 = values_B3[:, :2] * (SCALE - 1 / SCALE) + 1 / SCALE
    return affine(images, torch.diag_embed(torch.cat([factors_B2, torch.zeros_like(factors_B2[:, :1])], 1))[:, :2])


def _rotate(images: Tensor, values_B3: Tensor) -> Tensor:
    return affine(images, rotate((2 * values_B3[:, 0] - 1) * ROTATION))


_OPERATIONS = {"color": _color, "crop": _crop, "cutout": _cutout, "flip": _flip, "scale": _scale, "rotate": _rotate}
