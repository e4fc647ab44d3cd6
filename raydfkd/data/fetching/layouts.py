"""How the files of a data set lie after unpacking or in a local copy: for each layout a function that finds one split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raydfkd.data.catalogue import NamedDataset
from raydfkd.data.file_tree import is_hidden
from raydfkd.data.kinds.image_folder import ImageFolderConfig, image_files, open_folder
from raydfkd.data.kinds.torchvision_sets import TorchvisionConfig, torchvision_dataset
from raydfkd.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

EUROSAT_TEST_IMAGES = 200
"""Of each class."""


@dataclass(frozen=True)
class SplitImages:
    """The images of a split, not read yet.

    Attributes:
        total: how many there are.
        item: an image: its file, or itself where the data set's files hold arrays.
        labels: int64 [total]; None: it has masks.
        masks: files of 8-bit class indices, one an image; None: it has labels.
        classes: names of the classes.
    """

    total: int
    item: Callable[[int], Path | Image]
    labels: np.ndarray | None
    masks: Sequence[Path] | None
    classes: tuple[str, ...]


Layout = Callable[[NamedDataset, Path, str], SplitImages | None]
"""From a data set, a folder and a split to its images; None if they do not lie in the folder in this layout."""


def find_split(entry: NamedDataset, root: Path, split: str) -> SplitImages | None:
    """The split's images below ``root``, in the data set's own layout or in a folder for each split and class in it."""
    for layout in (LAYOUTS[entry.layout], _split_folders):
        found = layout(entry, root, split)
        if found is not None and found.total > 0:
            return found
    return None


def _split_folders(entry: NamedDataset, root: Path, split: str) -> SplitImages | None:
    """``SPLIT/CLASS/*``, the classes in the order of their names."""
    for name in (split, *entry.folders.get(split, ())):
        folder = root / name
        if folder.is_dir() and any(place.is_dir() and not is_hidden(place.name) for place in folder.iterdir()):
            return _class_folders(folder)
    return None


def _class_folders(folder: Path) -> SplitImages:
    source = open_folder(ImageFolderConfig(path=str(folder)), True)
    paths: list[Path] = []
    labels: list[np.ndarray] = []
    for chunk in source.chunks:
        paths += chunk.items
        labels.append(chunk.labels)
    assert source.classes is not None, "a folder for each class names the classes"
    return _of_files(paths, np.concatenate([np.empty(0, np.int64), *labels]), source.classes)


def _torchvision(entry: NamedDataset, root: Path, split: str) -> SplitImages | None:
    """As torchvision's class lays it out. Files are taken as they are, arrays as images."""
    assert entry.torchvision is not None, "the catalogue names the class"
    assert entry.marker is not None, "the catalogue says how its layout is known"
    if not (root / entry.marker.format(split=split)).exists():
        return None
    config = TorchvisionConfig(name=entry.torchvision, root=str(root), split=split)
    dataset = torchvision_dataset(config, labelled=True, loader=Path)
    labels = next(getattr(dataset, name) for name in ("targets", "labels", "_labels") if hasattr(dataset, name))
    files = getattr(dataset, "_images", None)  # OxfordIIITPet takes no loader
    classes = entry.classes or tuple(str(name) for name in dataset.classes)
    item: Callable[[int], Any] = (lambda i: dataset[i][0]) if files is None else (lambda i: files[i])
    return SplitImages(len(dataset), item, np.asarray(labels, dtype=np.int64), None, classes)


def _tiny_imagenet(entry: NamedDataset, root: Path, split: str) -> SplitImages | None:
    """``train/CLASS/images/*`` and, for ``test``, ``val/images/*`` with the classes in ``val/val_annotations.txt``."""
    for place in (root, root / "tiny-imagenet-200"):
        annotations = place / "val" / "val_annotations.txt"
        if split == "train" and annotations.is_file() and (place / "train").is_dir():
            return _class_folders(place / "train")
        if split != "train" and annotations.is_file():
            return _tiny_imagenet_validation(annotations, _classes_of(place))
    return None


def _classes_of(place: Path) -> tuple[str, ...]:
    return tuple(sorted((place / "wnids.txt").read_text(encoding="utf-8").split()))


def _tiny_imagenet_validation(annotations: Path, classes: tuple[str, ...]) -> SplitImages:
    rows = sorted(line.split("\t")[:2] for line in annotations.read_text(encoding="utf-8").splitlines())
    number = {name: k for k, name in enumerate(classes)}
    paths = [annotations.parent / "images" / name for name, _ in rows]
    return _of_files(paths, np.array([number[name] for _, name in rows], dtype=np.int64), classes)


def _eurosat(entry: NamedDataset, root: Path, split: str) -> SplitImages | None:
    """``CLASS/*.jpg`` without splits: a fixed choice of every class is ``test``, the rest ``train``."""
    for place in (root / "eurosat" / "2750", root / "2750", root / "EuroSAT_RGB", root):
        if (place / "AnnualCrop").is_dir():
            whole = _class_folders(place)
            assert whole.labels is not None, "class folders are labels"
            rows = eurosat_rows(whole.labels, split)
            return _of_files([whole.item(int(i)) for i in rows], whole.labels[rows], whole.classes)
    return None


def eurosat_rows(labels: np.ndarray, split: str) -> np.ndarray:
    """Row numbers, int64, ascending, of one part of EuroSAT, whose images are in the order of their paths."""
    random = np.random.RandomState(0)  # NumPy promises never to change its stream
    rows = []
    for label in np.unique(labels):
        shuffled = random.permutation(np.flatnonzero(labels == label))
        rows.append(shuffled[:EUROSAT_TEST_IMAGES] if split == "test" else shuffled[EUROSAT_TEST_IMAGES:])
    return np.sort(np.concatenate(rows))


def _segnet(entry: NamedDataset, root: Path, split: str) -> SplitImages | None:
    """``SPLIT/*.png`` with a mask of the same name in ``SPLITannot``."""
    for place in (root, root / "CamVid"):
        if (place / split).is_dir() and (place / f"{split}annot").is_dir():
            return _with_masks(entry, place / split, place / f"{split}annot")
    return None


def _nyuv2(entry: NamedDataset, root: Path, split: str) -> SplitImages | None:
    """``image/SPLIT/*.png`` with a mask of the same name in ``seg13/SPLIT``, 0 where it is not labelled."""
    for place in (root, root / "nyuv2"):
        if (place / "image" / split).is_dir() and (place / "seg13" / split).is_dir():
            return _with_masks(entry, place / "image" / split, place / "seg13" / split)
    return None


def _with_masks(entry: NamedDataset, images: Path, masks: Path) -> SplitImages:
    paths = image_files(ImageFolderConfig(path=str(images)))
    theirs = [masks / f"{path.stem}.png" for path in paths]
    if missing := [mask for mask in theirs if not mask.is_file()]:
        raise DataError(f"image {missing[0].stem} of {images} has no mask: {missing[0]} does not exist")
    return SplitImages(len(paths), paths.__getitem__, None, theirs, entry.classes)


def _of_files(paths: Sequence[Any], labels: np.ndarray, classes: tuple[str, ...]) -> SplitImages:
    return SplitImages(len(paths), paths.__getitem__, labels, None, classes)


LAYOUTS: dict[str, Layout] = {
    "split_folders": _split_folders,
    "torchvision": _torchvision,
    "tiny_imagenet": _tiny_imagenet,
    "eurosat": _eurosat,
    "segnet": _segnet,
    "nyuv2": _nyuv2,
}


def rows_of(images: SplitImages) -> Iterator[tuple[Path | Image, int | Path]]:
    """(image, its label or its mask's file) of each image, in order."""
    beside: Sequence[Any] = images.masks if images.masks is not None else images.labels.tolist()  # type: ignore[union-attr]
    for i in range(images.total):
        yield images.item(i), beside[i]
