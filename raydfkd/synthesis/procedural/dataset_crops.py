"""Random crops of the pictures of a data set, made as those of one large picture."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from raydfkd.data.dataset_kind import DatasetConfig
from raydfkd.data.decoding import DAMAGE
from raydfkd.data.kinds import AnyDataset, open_source
from raydfkd.deferred import deferred
from raydfkd.errors import DataError
from raydfkd.synthesis.procedural.images import ImagesConfig, ImagesKind
from raydfkd.synthesis.procedural.picture_crops import PictureCrops

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
else:
    torch = deferred("torch")

logger = logging.getLogger(__name__)

SMALLEST_SIDE = 8
"""Minimum length of a picture's shorter side, in pixels."""


class CropsImagesConfig(ImagesConfig):
    """Random crops of the pictures of a data set, made as those of one large picture."""

    kind: Literal["crops"] = "crops"
    """Kind of images."""
    dataset: AnyDataset
    """Where the pictures are; their labels, if any, are not read."""
    max_pictures: int = Field(400, ge=1)
    """Maximum pictures read, evenly spaced over the data set; all of them are held in memory."""
    min_area: float = Field(1 / 500, gt=0, le=1)
    """Smallest crop, as a share of half the picture."""

    @property
    def datasets_read(self) -> tuple[DatasetConfig, ...]:
        return (self.dataset,)


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


def read_pictures(dataset: DatasetConfig, max_pictures: int) -> list[Tensor]:
    """Pictures of a data set at their own sizes, each uint8 [3,H,W]; those that cannot be read are skipped with a warning.

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
        told = f" (the first rejected: {refused[0]})" if refused else ""
        raise DataError(f"data set {source.description} holds no picture to crop from{told}: correct images.dataset")
    if refused:
        logger.warning(
            "%s: %d of %d pictures cannot be read or are too small and were skipped (the first: %s)",
            source.description,
            len(refused),
            source.total,
            refused[0],
        )
    return pictures


def _build(config: CropsImagesConfig, teacher: FrozenTeacher, device: torch.device) -> DatasetCrops:
    return DatasetCrops(config.dataset, config.max_pictures, teacher.image_shape, device, config.min_area)


IMAGES = ImagesKind(config=CropsImagesConfig, build=_build, title="random crops of the pictures of a data set")
