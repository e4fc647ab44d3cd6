"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719) of a whole batch: each image draws its own operations and directions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raydfkd.augment import color, geometry
from raydfkd.augment.config import MAX_MAGNITUDE

OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "saturation", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
"""All fourteen are equally likely."""
_AFFINE = OPERATIONS[1:6]

MAX_SHEAR = 0.3
MAX_TRANSLATION = 150 / 331
"""Share of the image's side."""
MAX_DEGREES = 30.0
MAX_BLEND = 0.9
"""Brightness, saturation, contrast and sharpness are between 1 - this and 1 + this."""
MAX_LOST_BITS = 4


def rand_augment(
    images: Tensor, num_ops: int, magnitude: int, generator: torch.Generator, outside: Tensor | float = 0.0
) -> Tensor:
    """``num_ops`` operations in turn on each image, drawn with replacement, all with one magnitude.

    Ranges are those of torchvision's RandAugment with 31 magnitudes; warps are bilinear and not nearest-neighbour, translations
    whole pixels as there; solarize begins above white, so that magnitude 0 changes images only by operations without
    a strength (autocontrast, equalize).

    Args:
        images: float [B,C,H,W] in [0,1] on any device.
        magnitude: 0 to 30.
        generator: a CPU generator, so that the draws are the same on every device.
        outside: value [1,C,1,1] or number that warps bring in from outside of an image.
    """
    for _ in range(num_ops):
        images = apply_operations(images, *draw_operations(len(images), generator), magnitude, outside)
    return images


def draw_operations(num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """int64 [num] and float32 [num] on the CPU: each image's operation, as an index into ``OPERATIONS``, and its direction."""
    operations_B = torch.randint(len(OPERATIONS), (num,), generator=generator)
    return operations_B, torch.randint(2, (num,), generator=generator).mul_(2).sub_(1).float()


def apply_operations(
    images: Tensor, operations_B: Tensor, signs_B: Tensor, magnitude: int, outside: Tensor | float = 0.0
) -> Tensor:
    """One operation on each image.

    Images with the same operation are changed together: a pass for each operation, whatever the number of images.

    Args:
        operations_B: int64 [B] on the CPU, indices into ``OPERATIONS``.
        signs_B: float [B] on the CPU, -1 or 1: in which direction an operation that has two goes.
        outside: see :func:`rand_augment`.
    """
    share = magnitude / MAX_MAGNITUDE
    out = images.clone()
    warped = (operations_B >= 1) & (operations_B <= len(_AFFINE))
    if (rows := warped.nonzero().flatten()).numel():
        matrices = _matrices(operations_B[rows], share * signs_B[rows], images.shape[2], images.shape[3])
        rows = rows.to(images.device)
        # What warps bring in is 0, so that they see the image less the value.
        out[rows] = (geometry.affine(images[rows] - outside, matrices.to(images.device)) + outside).clamp_(0, 1)
    for index, operation in enumerate(OPERATIONS):
        if operation not in _COLOR:
            continue
        if (rows := (operations_B == index).nonzero().flatten()).numel():
            signed_B = (share * signs_B[rows]).to(images.device)
            rows = rows.to(images.device)
            out[rows] = _COLOR[operation](images[rows], signed_B)
    return out


def apply_everywhere(
    images: Tensor, operations_B: Tensor, signs_B: Tensor, magnitude: int, outside: Tensor | float = 0.0
) -> Tensor:
    """As :func:`apply_operations`, in steps of one shape whatever was drawn: every operation is computed for all images, of
    which those that drew it keep the result. For GPUs, which otherwise would wait for the rows of each operation.

    Args:
        operations_B, signs_B: as there, on the images' device.
    """
    signed_B = signs_B * (magnitude / MAX_MAGNITUDE)
    warped_B = (operations_B >= 1) & (operations_B <= len(_AFFINE))
    matrices = _matrices(operations_B.clamp(1, len(_AFFINE)), signed_B, images.shape[2], images.shape[3])
    moved = (geometry.affine(images - outside, matrices) + outside).clamp_(0, 1)
    out = torch.where(warped_B.view(-1, 1, 1, 1), moved, images)
    for index, operation in enumerate(OPERATIONS):
        if operation in _COLOR:
            chosen_B = (operations_B == index).view(-1, 1, 1, 1)
            out = torch.where(chosen_B, _COLOR[operation](images, signed_B), out)
    return out


def _matrices(operations_B: Tensor, signed_B: Tensor, height: int, width: int) -> Tensor:
    """float32 [B,2,3] of the affine operations, each with its signed share of the strongest."""
    still = torch.zeros_like(signed_B)
    choices = torch.stack(
        [
            geometry.shear_x(signed_B * MAX_SHEAR, height),
            geometry.shear_y(signed_B * MAX_SHEAR, width),
            geometry.translate((signed_B * MAX_TRANSLATION * width).trunc(), still),
            geometry.translate(still, (signed_B * MAX_TRANSLATION * height).trunc()),
            geometry.rotate(signed_B * MAX_DEGREES),
        ]
    )
    return choices[operations_B - 1, torch.arange(len(operations_B), device=operations_B.device)]


def _posterize(images: Tensor, signed_B: Tensor) -> Tensor:
    return color.posterize(images, 8 - (signed_B.abs() * MAX_LOST_BITS).round())


def _solarize(images: Tensor, signed_B: Tensor) -> Tensor:
    # 256/255 is above white; with the full share black itself is inverted.
    return color.solarize(images, (1 - signed_B.abs()) * (256 / 255))


_COLOR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda images, signed_B: color.brightness(images, 1 + MAX_BLEND * signed_B),
    "saturation": lambda images, signed_B: color.saturation(images, 1 + MAX_BLEND * signed_B),
    "contrast": lambda images, signed_B: color.contrast(images, 1 + MAX_BLEND * signed_B),
    "sharpness": lambda images, signed_B: color.sharpness(images, 1 + MAX_BLEND * signed_B),
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": lambda images, signed_B: color.autocontrast(images),
    "equalize": lambda images, signed_B: color.equalize(images),
}
