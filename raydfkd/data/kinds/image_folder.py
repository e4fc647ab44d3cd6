"""A folder of image files, one folder in it for each class where there are labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from raydfkd.data.dataset_kind import Chunk, DatasetConfig, DatasetKind, Rows, Source, evenly_spaced, numbered, slices
from raydfkd.data.decoding import open_file
from raydfkd.data.file_tree import files_below, is_hidden
from raydfkd.errors import DataError
from raydfkd.settings import InputFile

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


class ImageFolderConfig(DatasetConfig):
    """A folder with one folder of image files per class."""

    kind: Literal["image_folder"] = "image_folder"

    path: Annotated[str, InputFile()]
    """Its sub-folders, sorted by name, are classes 0, 1, ..."""

    @property
    def location(self) -> str:
        return self.path


def open_folder(config: ImageFolderConfig, labelled: bool) -> Source:
    root = _folder(config)
    folders = sorted(place for place in root.iterdir() if place.is_dir() and not is_hidden(place.name))
    broken = sorted(place for place in root.iterdir() if place.is_symlink() and not place.exists())
    if labelled and broken:  # a class that is not counted would shift the others
        raise DataError(
            f"data set {root}: {broken[0].name} is a link to {broken[0].readlink()}, which is not there: correct it"
        )
    if labelled and not folders:
        raise DataError(f"data set {root} has no folders: it needs one folder of images per class")
    if labelled:
        found = [(path, label) for label, folder in enumerate(folders) for path in _image_files(folder)]
    else:
        found = [(path, -1) for path in _image_files(root)]
    chosen = evenly_spaced(len(found), config.max_images)

    def chunks() -> Iterator[Chunk]:
        for part in slices(chosen):
            paths = [found[i][0] for i in part]
            labels = np.array([found[i][1] for i in part], dtype=np.int64)
            yield Chunk(paths, labels, numbered("{}", paths))

    classes = tuple(folder.name for folder in folders) if labelled else None
    return Source(root.name, str(root), len(chosen), classes, open_file, chunks())


def image_files(config: ImageFolderConfig) -> list[Path]:
    """Every image file of the folder and those in it, in the order of their paths. Raises DataError if there is no folder."""
    return _image_files(_folder(config))


def _folder(config: ImageFolderConfig) -> Path:
    root = Path(config.path).expanduser()
    if not root.is_dir():
        raise DataError(f"data set {root} {'is not a folder' if root.exists() else 'does not exist'}: correct its path")
    return root


def _image_files(folder: Path) -> list[Path]:
    return files_below(folder, _SUFFIXES)


@dataclass(frozen=True)
class FolderRows:
    """Image files of a folder and its folders, in the order of their paths."""

    description: str
    paths: tuple[Path, ...]

    @classmethod
    def open(cls, config: ImageFolderConfig) -> FolderRows:
        found = image_files(config)
        return cls(str(Path(config.path).expanduser()), tuple(found[i] for i in evenly_spaced(len(found), config.max_images)))

    @property
    def total(self) -> int:
        return len(self.paths)

    def read(self, rows: np.ndarray) -> Rows:
        paths = [self.paths[row] for row in rows]
        return Rows(paths, open_file, lambda i: str(paths[i]))


def _claimed(path: Path) -> ImageFolderConfig | None:
    return ImageFolderConfig(path=str(path)) if path.is_dir() else None


DATASET = DatasetKind(
    config=ImageFolderConfig, title="a folder of image files", open=open_folder, rows=FolderRows.open, claims=_claimed
)
