"""Random crops of one large picture.

After Asano and Saeed, "The Augmented Image Prior: Distilling 1000 Classes by Extrapolating from a Single Image" (ICLR 2023).

Each is a crop of a random half of the picture, from 1/500 of its area up, turned and sheared by up to 30 degrees, its middle
cut out, half of them with other brightness, contrast, saturation and hue, half of them mirrored. Ours: it is one resampling
from a pyramid of the picture instead of four in a row, and beyond its edge the picture is mirrored instead of black.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from raydfkd.errors import DataError
from raydfkd.synthesis.procedural.images import LUMA, in_channels

LARGEST_ANGLE = math.radians(30)
ASPECTS = (3 / 4, 4 / 3)
JITTER, HUE_JITTER = 0.4, 0.1
"""Brightness, contrast and saturation by a factor in 1 -+ 0.4; hue by up to 0.1 turns."""


class PhotographCrops:
    """Crops of one picture, or of several in turn at random.

    Args:
        path: any image file; None: the two photographs that come with scikit-learn.
        min_area: smallest share of the half picture in a crop.

    Raises:
        DataError: the file is not there, or is no picture.
    """

    def __init__(
        self, path: Path | None, image_shape: tuple[int, int, int], device: torch.device, min_area: float = 1 / 500
    ) -> None:
        self._channels, self._height, self._width = image_shape
        self._device = device
        self._min_area = min_area
        pictures = bundled_photographs() if path is None else [read_photograph(path)]
        self._pyramids = [pyramid(picture.to(device)) for picture in pictures]

    def render(self, count: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(self._pyramids), (count,), generator=generator)
        unit = torch.rand(count, 12, generator=generator)
        images = torch.empty(count, 3, self._height, self._width, device=self._device)
        for number, levels in enumerate(self._pyramids):
            mine = (which == number).nonzero()[:, 0]
            height, width = levels[0].shape[1:]
            places, footprint = self._places(unit[mine], height, width)
            level = footprint.log2().round().clamp(0, len(levels) - 1)
            for depth, picture in enumerate(levels):
                rows = (level == depth).nonzero()[:, 0]
                if len(rows):
                    images[mine[rows].to(self._device)] = _sampled(picture, places[rows].to(self._device))
        images = jittered(images, unit[:, 6:11].to(self._device))
        flipped = (unit[:, 11] < 0.5).to(self._device)
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        return in_channels(images.clamp_(0.0, 1.0), self._channels)

    def _places(self, unit: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """(where each pixel comes from [B,H,W,2], in -1 to 1 over the picture; source pixels per pixel along a side [B])."""
        area = self._min_area + (1 - self._min_area) * unit[:, 0]
        aspect = torch.exp(math.log(ASPECTS[0]) + unit[:, 1] * math.log(ASPECTS[1] / ASPECTS[0]))
        side = (area * height * width / 4).sqrt()
        half_width = (side * aspect.sqrt() / 2).clamp(max=width / 4)
        half_height = (side / aspect.sqrt() / 2).clamp(max=height / 4)
        # The crop lies in a half of the picture that itself lies anywhere: its middle is the sum of both.
        x = width / 4 + unit[:, 2] * width / 2 + (unit[:, 3] * 2 - 1) * (width / 4 - half_width)
        y = height / 4 + unit[:, 4] * height / 2 + (unit[:, 5] * 2 - 1) * (height / 4 - half_height)
        angle = (unit[:, 10] * 2 - 1) * LARGEST_ANGLE
        shear = torch.tan((unit[:, 7] * 2 - 1) * LARGEST_ANGLE)
        grid_x = (2 * torch.arange(self._width) + 1.0) / self._width - 1
        grid_y = (2 * torch.arange(self._height) + 1.0) / self._height - 1
        u, v = grid_x.view(1, 1, -1) / math.sqrt(2), grid_y.view(1, -1, 1) / math.sqrt(2)
        u = u + v * shear.view(-1, 1, 1)
        cosine, sine = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
        turned_x, turned_y = u * cosine - v * sine, u * sine + v * cosine
        from_x = (x.view(-1, 1, 1) + turned_x * half_width.view(-1, 1, 1)) / width * 2 - 1
        from_y = (y.view(-1, 1, 1) + turned_y * half_height.view(-1, 1, 1)) / height * 2 - 1
        footprint = torch.maximum(half_width * 2 / self._width, half_height * 2 / self._height) / math.sqrt(2)
        return torch.stack([from_x, from_y], -1), footprint.clamp(min=1e-6)


def _sampled(picture_CHW: Tensor, places_BHW2: Tensor) -> Tensor:
    """Bilinear; all images as one tall one, so that the picture is not repeated for each."""
    count, height, width, _ = places_BHW2.shape
    tall = places_BHW2.reshape(1, count * height, width, 2)
    found = F.grid_sample(picture_CHW[None], tall, mode="bilinear", padding_mode="reflection", align_corners=False)
    return found[0].view(-1, count, height, width).transpose(0, 1)


def pyramid(picture_CHW: Tensor) -> list[Tensor]:
    """The picture, and its halves down to 16 pixels."""
    levels = [picture_CHW]
    while min(levels[-1].shape[1:]) >= 32:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def jittered(images_B3HW: Tensor, unit_B5: Tensor) -> Tensor:
    """Half of the images with another brightness, contrast, saturation and hue, from numbers in [0,1)."""
    factors = (1 + JITTER * (unit_B5[:, :3] * 2 - 1)).view(-1, 3, 1, 1, 1)
    luma = torch.tensor(LUMA, device=images_B3HW.device).view(1, 3, 1, 1)
    found = images_B3HW * factors[:, 0]
    middle = (found * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    found = middle + (found - middle) * factors[:, 1]
    grey = (found * luma).sum(1, keepdim=True)
    found = grey + (found - grey) * factors[:, 2]
    turn = (unit_B5[:, 3] * 2 - 1) * (2 * math.pi * HUE_JITTER)
    found = torch.einsum("bij,bjhw->bihw", hue_rotation(turn), found)
    return torch.where((unit_B5[:, 4] < 0.5)[:, None, None, None], found, images_B3HW)


def hue_rotation(angle_B: Tensor) -> Tensor:
    """Matrices [B,3,3] that turn colours about the grey axis."""
    axis = torch.full((3,), 1 / math.sqrt(3), device=angle_B.device)
    crossed = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=angle_B.device) / math.sqrt(3)
    cosine, sine = angle_B.cos().view(-1, 1, 1), angle_B.sin().view(-1, 1, 1)
    identity = torch.eye(3, device=angle_B.device)
    return cosine * identity + (1 - cosine) * torch.outer(axis, axis) + sine * crossed


def read_photograph(path: Path) -> Tensor:
    """The picture [3,H,W] in [0,1].

    Raises:
        DataError: there is none, or it is damaged or too small.
    """
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise DataError(f"there is no picture {path}: correct images.path, or leave it out for scikit-learn's photographs")
    try:
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"{path} cannot be read as a picture ({type(error).__name__}): it is damaged or another format"
        ) from error
    if min(pixels.shape[:2]) < 16:
        raise DataError(
            f"{path} has {pixels.shape[1]} x {pixels.shape[0]} pixels: a picture to crop from needs at least 16 x 16"
        )
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255).contiguous()


def bundled_photographs() -> list[Tensor]:
    """scikit-learn's two photographs (427 x 640 pixels), [3,H,W] in [0,1]."""
    from sklearn.datasets import load_sample_images

    return [torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255) for image in load_sample_images().images]
