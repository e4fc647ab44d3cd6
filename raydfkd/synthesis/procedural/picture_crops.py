"""Random crops of one large picture, or of many.

After Asano and Saeed, "The Augmented Image Prior: Distilling 1000 Classes by Extrapolating from a Single Image" (ICLR 2023).

Each is a crop of a random half of the picture, from 1/500 of its area up, turned and sheared by up to 30 degrees, its middle
cut out, half of them with other brightness, contrast, saturation and hue, half of them mirrored. Ours: it is one resampling
from a pyramid of the picture instead of four in a row, and beyond its edge the picture is mirrored instead of black.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from raydfkd.deferred import deferred
from raydfkd.synthesis.procedural.images import LUMA, in_channels, to_uint8

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:
    torch, F = deferred("torch"), deferred("torch.nn.functional")

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
