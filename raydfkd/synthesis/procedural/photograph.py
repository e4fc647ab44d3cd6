"""Random crops of one large picture (Asano and Saeed, ICLR 2023; see ``picture_crops.py``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from raydfkd.deferred import deferred
from raydfkd.errors import DataError
from raydfkd.settings import InputPath
from raydfkd.synthesis.procedural.images import ImagesConfig, ImagesKind
from raydfkd.synthesis.procedural.picture_crops import PictureCrops

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")


class PhotographImagesConfig(ImagesConfig):
    """Random crops of one large picture (Asano and Saeed, ICLR 2023)."""

    kind: Literal["photograph"] = "photograph"
    """Kind of images."""
    path: InputPath | None = None
    """Any image file; null: the two photographs that come with scikit-learn."""
    min_area: float = Field(1 / 500, gt=0, le=1)
    """Smallest crop, as a share of half the picture."""


class PhotographCrops(PictureCrops):
    """Crops of one picture file, or of the two photographs that come with scikit-learn (path None).

    Raises:
        DataError: the file does not exist or is not a picture.
    """

    def __init__(
        self, path: Path | None, image_shape: tuple[int, int, int], device: torch.device, min_area: float = 1 / 500
    ) -> None:
        pictures = bundled_photographs() if path is None else [read_photograph(path)]
        super().__init__(pictures, image_shape, device, min_area)


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


IMAGES = ImagesKind(
    config=PhotographImagesConfig,
    build=lambda config, teacher, device: PhotographCrops(config.path, teacher.image_shape, device, config.min_area),
    title="random crops of one large picture",
)
