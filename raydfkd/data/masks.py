"""Images with masks in memory: a class for each pixel, for evaluation and teacher training.

Of a mask's values, one may not count (``ignore_index``); the others in their order are the classes 0, 1, ... So a set whose
ignored value is 255, or one above all classes, has its values as classes, and one whose 0 is not labelled has class 0 at 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from raydfkd.data.dataset_kind import Chunk, DatasetConfig, Source
from raydfkd.data.datasets import ImageDataset, in_order, places_in, require_channels, tell_of
from raydfkd.data.decoding import DAMAGE, Decoder, covering
from raydfkd.data.kinds import open_masks
from raydfkd.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_CLASS_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")
"""PIL's modes of one whole number a pixel; of a palette's pictures it is the place in the palette."""


def load_masked(
    config: DatasetConfig, image_shape: tuple[int, int, int], num_classes: int, order: tuple[str, ...] | None = None
) -> ImageDataset:
    """Reads and decodes a data set with its masks, whole.

    Args:
        config: which one; relative paths are relative to the working directory.
        image_shape: the task's (C, H, W); an image of another size is scaled and cut to it, and its mask in the same way with
            the classes of nearest pixels.
        num_classes: the task's K.
        order: see ``load_dataset``.

    Raises:
        DataError: missing, empty or damaged data; channels or classes that do not match the task's; a mask that is no picture
            of classes, or of another size than its image.
    """
    require_channels(image_shape)
    source = open_masks(config)
    if source.total == 0:
        raise DataError(f"data set {source.description} is empty")
    classes = _classes(source, num_classes)
    images = np.empty((source.total, *image_shape), dtype=np.uint8)
    masks = np.empty((source.total, *image_shape[1:]), dtype=np.int16)
    filled = 0
    with Decoder(image_shape, config.convert) as decoder:
        for chunk in source.chunks:
            decoded, kept = decoder.decode(chunk.items, source.opener, chunk.name)
            found = _masks(decoder, chunk, source, kept, num_classes)
            for number, mask in enumerate(found):
                if mask is not None:
                    images[filled], masks[filled] = decoded[number], mask
                    filled += 1
    tell_of(decoder, source, filled)
    read = ImageDataset(
        np.ascontiguousarray(images[:filled]), masks[:filled], classes, source.name, config.split, source.description,
        decoder.num_skipped,
    )  # fmt: skip
    places = None if order is None or source.classes is None else places_in(classes, order)
    if order is None or places is None or len(order) != num_classes:
        return read
    return replace(read, labels=in_order(read.labels, places), classes=tuple(order))


def _classes(source: Source, num_classes: int) -> tuple[str, ...]:
    """Names of the classes that count."""
    if source.classes is None:
        return tuple(str(k) for k in range(num_classes))
    names = tuple(name for value, name in enumerate(source.classes) if value != source.ignore_index)
    if len(names) != num_classes:
        ignored = "" if len(names) == len(source.classes) else f" besides {source.classes[source.ignore_index or 0]!r}, ignored"
        raise DataError(
            f"the masks of {source.description} have {len(names)} classes{ignored}, and the task has num_classes "
            f"{num_classes}: change num_classes or the data set"
        )
    return names


def _masks(decoder: Decoder, chunk: Chunk, source: Source, kept: np.ndarray, num_classes: int) -> list[np.ndarray | None]:
    """int16 [H,W] of each image that was kept, -1 where it does not count; None of one whose mask is damaged."""
    assert chunk.masks is not None, "a source of masks"
    assert source.mask_opener is not None
    items, opener, height, width = chunk.masks, source.mask_opener, *decoder.image_shape[1:]

    def read(number: int) -> np.ndarray | str:
        i = int(kept[number])
        try:
            with source.opener(chunk.items[i]) as image, opener(items[i]) as mask:
                mask.load()
                _require_mask(mask, image, chunk.name(i))
                fitted = mask if mask.size == (width, height) else covering(mask, width, height, nearest=True)
                values = np.asarray(fitted).astype(np.int64)
        except DAMAGE as error:
            return f"the mask of {chunk.name(i)} ({error})"
        return _as_classes(values, source, num_classes, chunk.name(i))

    found: list[np.ndarray | None] = []
    for one in decoder.each(read, len(kept)):
        if isinstance(one, str):
            decoder.num_skipped += 1
            decoder.first_skipped = decoder.first_skipped or one
        found.append(None if isinstance(one, str) else one)
    return found


def _require_mask(mask: Image, image: Image, name: str) -> None:
    if mask.mode not in _CLASS_MODES:
        raise DataError(
            f"the mask of {name} has pixel mode {mask.mode}, and a mask holds one class a pixel: store masks as pictures of "
            "one channel, or with a palette"
        )
    if mask.size != image.size:
        raise DataError(
            f"the mask of {name} is {mask.height}x{mask.width} pixels and the image {image.height}x{image.width}: give each "
            "image a mask of its size"
        )


def _as_classes(values: np.ndarray, source: Source, num_classes: int, name: str) -> np.ndarray:
    """int16 [H,W] of a mask's values."""
    ignored = source.ignore_index
    classes = values if ignored is None else np.where(values == ignored, -1, values - (values > ignored))
    if classes.max() >= num_classes:
        value = int(values.ravel()[classes.argmax()])
        counted = "" if ignored is None else f" (the value {ignored} does not count)"
        raise DataError(
            f"the mask of {name} has value {value}, which is class {classes.max()}, outside [0, {num_classes}){counted}: "
            "change num_classes, or set ignore_index if that value does not count"
        )
    narrow: np.ndarray = classes.astype(np.int16)
    return narrow
