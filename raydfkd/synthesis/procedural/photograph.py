"""Random crops of one large picture, or of many.

After Asano and Saeed, "The Augmented Image Prior: Distilling 1000 Classes by Extrapolating from a Single Image" (ICLR 2023).

Each is a crop of a random half of the picture, from 1/500 of its area up, turned and sheared by up to 30 degrees, its middle
cut out, half of them with other brightness, contrast, saturation and hue, half of them mirrored. Ours: it is one resampling
from a pyramid of the picture instead of four in a row, and beyond its edge the picture is mirrored instead of black.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from raydfkd.data.config import DatasetConfig
from raydfkd.data.decoding import DAMAGE
from raydfkd.data.sources import open_source
from raydfkd.errors import DataError
from raydfkd.synthesis.procedural.images import LUMA, in_channels, to_uint8

logger = logging.getLogger(__name__)

SMALLEST_SIDE = 8
"""Pixels that a data set's picture must have on its shorter side."""
LARGEST_ANGLE = math.radians(30)
ASPECTS = (3 / 4, 4 / 3)
JITTER, HUE_JITTER = 0.4, 0.1
"""Brightness, contrast and saturation by a factor in 1 -+ 0.4; hue by up to 0.1 turns."""


class PictureCrops:
    """Crops of one picture, or of several in turn at random.

    Args:
        pictures: [3,H,W] in [0,1] each.
        min_area: smallest share of the half picture in a crop.
    """

    def __init__(
        self,
        pictures: Iterable[Tensor],
        image_shape: tuple[int, int, int],
        device: torch.device,
        min_area: float = 1 / 500,
    ) -> None:
        self._channels, self._height, self._width = image_shape
        self._device = device
        self._min_area = min_area
        # As bytes, a quarter of the memory: hundreds of pictures may be held.
        self._pyramids = [[to_uint8(level) for level in pyramid(picture.to(device))] for picture in pictures]
        self._sizes = torch.tensor([list(levels[0].shape[1:]) for levels in self._pyramids], dtype=torch.float)

    def render(self, count: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(self._pyramids), (count,), generator=generator)
        cut, jitter, mirrored = torch.rand(count, 14, generator=generator).split([8, 5, 1], dim=1)  # all independent
        images = torch.empty(count, 3, self._height, self._width, device=self._device)
        sizes = self._sizes[which]
        places, footprint = self._places(cut, sizes[:, 0], sizes[:, 1])
        places, levels = places.to(self._device), footprint.log2().round()
        for number in which.unique().tolist():
            halves = self._pyramids[number]
            mine = (which == number).nonzero()[:, 0]
            depths = levels[mine].clamp(0, len(halves) - 1).int()
            for depth in depths.unique().tolist():
                rows = mine[depths == depth].to(self._device)
                images[rows] = _sampled(halves[depth].float() / 255, places[rows])
        images = jittered(images, jitter.to(self._device))
        images = torch.where((mirrored < 0.5).to(self._device)[:, :, None, None], images.flip(3), images)
        return in_channels(images.clamp_(0.0, 1.0), self._channels)

    def _places(self, unit_B8: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """(where each pixel comes from [B,H,W,2], in -1 to 1 over the picture; source pixels per pixel along a side [B]).

        Args:
            unit_B8: numbers in [0,1).
            height, width: float [B], of the picture that each is cut from.
        """
        area = self._min_area + (1 - self._min_area) * unit_B8[:, 0]
        aspect = torch.exp(math.log(ASPECTS[0]) + unit_B8[:, 1] * math.log(ASPECTS[1] / ASPECTS[0]))
        side = (area * height * width / 4).sqrt()
        half_width = torch.minimum(side * aspect.sqrt() / 2, width / 4)
        half_height = torch.minimum(side / aspect.sqrt() / 2, height / 4)
        # The crop lies in a half of the picture that itself lies anywhere: its middle is the sum of both.
        x = width / 4 + unit_B8[:, 2] * width / 2 + (unit_B8[:, 3] * 2 - 1) * (width / 4 - half_width)
        y = height / 4 + unit_B8[:, 4] * height / 2 + (unit_B8[:, 5] * 2 - 1) * (height / 4 - half_height)
        angle = (unit_B8[:, 6] * 2 - 1) * LARGEST_ANGLE
        shear = torch.tan((unit_B8[:, 7] * 2 - 1) * LARGEST_ANGLE)
        grid_x = (2 * torch.arange(self._width) + 1.0) / self._width - 1
        grid_y = (2 * torch.arange(self._height) + 1.0) / self._height - 1
        u, v = grid_x.view(1, 1, -1) / math.sqrt(2), grid_y.view(1, -1, 1) / math.sqrt(2)
        u = u + v * shear.view(-1, 1, 1)
        cosine, sine = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
        turned_x, turned_y = u * cosine - v * sine, u * sine + v * cosine
        from_x = (x.view(-1, 1, 1) + turned_x * half_width.view(-1, 1, 1)) / width.view(-1, 1, 1) * 2 - 1
        from_y = (y.view(-1, 1, 1) + turned_y * half_height.view(-1, 1, 1)) / height.view(-1, 1, 1) * 2 - 1
        footprint = torch.maximum(half_width * 2 / self._width, half_height * 2 / self._height) / math.sqrt(2)
        return torch.stack([from_x, from_y], -1), footprint.clamp(min=1e-6)


class PhotographCrops(PictureCrops):
    """Crops of one picture file, or of the two photographs that come with scikit-learn (path None).

    Raises:
        DataError: the file is not there, or is no picture.
    """

    def __init__(
        self, path: Path | None, image_shape: tuple[int, int, int], device: torch.device, min_area: float = 1 / 500
    ) -> None:
        pictures = bundled_photographs() if path is None else [read_photograph(path)]
        super().__init__(pictures, image_shape, device, min_area)


class DatasetCrops(PictureCrops):
    """Crops of the pictures of a data set, of which at most ``max_pictures``, evenly spaced, are read and held.

    Raises:
        DataError: it is not there, or holds no picture that can be read.
    """

    def __init__(
        self,
        dataset: DatasetConfig,
        max_pictures: int,
        image_shape: tuple[int, int, int],
        device: torch.device,
        min_area: float = 1 / 500,
    ) -> None:
        pictures = read_pictures(dataset, max_pictures)
        super().__init__((picture.float().div_(255) for picture in pictures), image_shape, device, min_area)


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


def read_pictures(dataset: DatasetConfig, max_pictures: int) -> list[Tensor]:
    """Pictures of a data set at their own sizes, each uint8 [3,H,W]; those that cannot be read are left out and told of.

    Raises:
        DataError: none is left.
    """
    most = max_pictures if dataset.max_images is None else min(max_pictures, dataset.max_images)
    source = open_source(dataset.model_copy(update={"max_images": most}), labelled=False)
    pictures, refused = [], []
    for chunk in source.chunks:
        for i, item in enumerate(chunk.items):
            try:
                with source.opener(item) as opened:
                    pixels = np.asarray(opened.convert("RGB"))
            except DAMAGE as error:
                refused.append(f"{chunk.name(i)} ({error})")
                continue
            if min(pixels.shape[:2]) < SMALLEST_SIDE:
                refused.append(f"{chunk.name(i)} ({pixels.shape[1]} x {pixels.shape[0]} pixels)")
                continue
            pictures.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous())
    if not pictures:
        told = f", the first being {refused[0]}" if refused else ""
        raise DataError(f"data set {source.description} holds no picture to crop from{told}: correct images.dataset")
    if refused:
        logger.warning(
            "%s: %d of %d pictures cannot be read or are too small and are left out, the first being %s",
            source.description,
            len(refused),
            source.total,
            refused[0],
        )
    return pictures


def bundled_photographs() -> list[Tensor]:
    """scikit-learn's two photographs (427 x 640 pixels), [3,H,W] in [0,1]."""
    from sklearn.datasets import load_sample_images

    return [torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255) for image in load_sample_images().images]
