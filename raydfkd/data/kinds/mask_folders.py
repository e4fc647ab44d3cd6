"""A folder of image files and one of masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from raydfkd.data.dataset_kind import Chunk, DatasetConfig, DatasetKind, RowReader, Source, evenly_spaced, numbered, slices
from raydfkd.data.decoding import open_file
from raydfkd.data.kinds.image_folder import FolderRows, ImageFolderConfig, image_files, open_folder
from raydfkd.errors import DataError
from raydfkd.settings import InputFile


class MaskFoldersConfig(DatasetConfig):
    """A folder of image files and one of masks, pictures of one channel or with a palette whose values are classes."""

    kind: Literal["mask_folders"] = "mask_folders"

    images: Annotated[str, InputFile()]
    """Folder of the images, and of folders of them."""

    masks: Annotated[str, InputFile()]
    """Folder of their masks, which have the images' names but for the suffix, in folders of the same names."""

    ignore_index: int | None = Field(default=None, ge=0, le=255)
    """Value in masks of pixels that do not count; null: all count."""

    classes: tuple[str, ...] | None = None
    """Names of the masks' values 0, 1, ..., that of ``ignore_index`` too if it is among them; null: their numbers."""

    @property
    def location(self) -> str:
        return self.images


def _images(config: MaskFoldersConfig) -> ImageFolderConfig:
    return ImageFolderConfig(path=config.images, split=config.split, max_images=config.max_images, convert=config.convert)


def open_images(config: MaskFoldersConfig, labelled: bool) -> Source:
    if labelled:
        raise DataError(
            f"data set {config.images} has a mask of classes for each image and no labels: set task.kind to segmentation, or "
            "give an image_folder"
        )
    return open_folder(_images(config), False)


def open_folders(config: MaskFoldersConfig) -> Source:
    images, masks = Path(config.images).expanduser(), Path(config.masks).expanduser()
    paths = image_files(_images(config))
    of_name = {path.relative_to(masks).with_suffix(""): path for path in image_files(ImageFolderConfig(path=config.masks))}
    for path in paths:
        if path.relative_to(images).with_suffix("") not in of_name:
            raise DataError(
                f"image {path} has no mask: there is no picture {path.relative_to(images).with_suffix('')} in {masks}; add it, "
                "or correct masks"
            )
    chosen = evenly_spaced(len(paths), config.max_images)

    def chunks() -> Iterator[Chunk]:
        for part in slices(chosen):
            files = [paths[i] for i in part]
            theirs = [of_name[path.relative_to(images).with_suffix("")] for path in files]
            yield Chunk(files, np.full(len(files), -1), numbered("{}", files), theirs)

    return Source(images.name, str(images), len(chosen), config.classes, open_file, chunks(), open_file, config.ignore_index)


def open_rows(config: MaskFoldersConfig) -> RowReader:
    return FolderRows.open(_images(config))


DATASET = DatasetKind(
    config=MaskFoldersConfig,
    title="a folder of image files and one of masks",
    open=open_images,
    rows=open_rows,
    open_masks=open_folders,
)
