"""Masks of the data sets that torchvision reads: Pascal VOC and Cityscapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raydfkd.data.dataset_kind import Chunk, Source, evenly_spaced, numbered, slices
from raydfkd.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

IGNORED = 255
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def open_torchvision_masks(name: str, root: str, split: str, max_images: int | None) -> Source:
    """A data set of torchvision with its masks.

    Raises:
        DataError: it is not one of those whose masks are known here, or its files are not there.
    """
    if name not in _OPENED:
        raise DataError(f"torchvision {name} is not known here to have masks: give {' or '.join(_OPENED)}, or mask_folders")
    make, classes, as_classes = _OPENED[name]
    try:
        dataset = make(str(Path(root).expanduser()), split)
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(
            f"torchvision {name} ({split}) cannot be read in {root} ({reason}): put its files there, nothing is downloaded"
        ) from error
    chosen = evenly_spaced(len(dataset), max_images)

    def chunks() -> Iterator[Chunk]:
        for part in slices(chosen):
            numbers = part.tolist()
            yield Chunk(numbers, np.full(len(numbers), -1), numbered(f"image {{}} of {name}", numbers), numbers)

    def mask(i: int) -> Image:
        return as_classes(dataset[i][1])

    described = f"torchvision {name} in {root}"
    return Source(name, described, len(chosen), classes(), lambda i: dataset[i][0], chunks(), mask, IGNORED)


def _voc(root: str, split: str) -> Any:
    from torchvision.datasets import VOCSegmentation

    return VOCSegmentation(root, image_set=split)


def _cityscapes(root: str, split: str) -> Any:
    from torchvision.datasets import Cityscapes

    return Cityscapes(root, split=split, mode="fine", target_type="semantic")


def _cityscapes_classes() -> tuple[str, ...]:
    from torchvision.datasets import Cityscapes

    counted = sorted((one.train_id, one.name) for one in Cityscapes.classes if 0 <= one.train_id < IGNORED)
    return tuple(name for _, name in counted)


def _cityscapes_mask(label_ids: Image) -> Image:
    """Its files hold 34 numbers; 19 of them are classes that its benchmark counts."""
    from PIL import Image
    from torchvision.datasets import Cityscapes

    table = np.full(256, IGNORED, np.uint8)
    for one in Cityscapes.classes:
        if 0 <= one.train_id < IGNORED:
            table[one.id] = one.train_id
    return Image.fromarray(table[np.asarray(label_ids)])


_OPENED: dict[str, tuple[Callable[[str, str], Any], Callable[[], tuple[str, ...]], Callable[[Image], Image]]] = {
    "VOCSegmentation": (_voc, lambda: VOC_CLASSES, lambda mask: mask),
    "Cityscapes": (_cityscapes, _cityscapes_classes, _cityscapes_mask),
}
"""How each is opened for a folder and a split, its classes, and what makes a mask of classes of its own."""
