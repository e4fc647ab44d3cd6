"""Images in memory: labelled ones for evaluation and teacher training, and unlabelled ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from raydfkd.data.dataset_kind import Chunk, DatasetConfig, Source
from raydfkd.data.decoding import Decoder
from raydfkd.data.kinds import open_source
from raydfkd.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageDataset:
    """Decoded images of one shape.

    Attributes:
        images: uint8 [N,C,H,W], contiguous; pixel value 255 is 1.0.
        labels: int64 [N] in [0, K), -1 if they were not read; or, of masks, int16 [N,H,W], -1 where a pixel does not count.
        classes: the K class names; empty if labels were not read.
        name: short name of the data set.
        split: which part of it, as the manifest records it.
        source: where it was read from.
        num_skipped: images that could not be decoded.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str
    split: str
    source: str
    num_skipped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_classes(self) -> np.ndarray:
        """int64 [N]: each image's label, or the class of most of its mask, -1 where no pixel counts."""
        if self.labels.ndim == 1:
            return self.labels
        counts = np.stack([np.bincount(mask[mask >= 0], minlength=self.num_classes) for mask in self.labels])
        return np.where(counts.any(axis=1), counts.argmax(axis=1), -1)


def load_dataset(
    config: DatasetConfig, image_shape: tuple[int, int, int], num_classes: int, order: tuple[str, ...] | None = None
) -> ImageDataset:
    """Reads and decodes a data set whole.

    Args:
        config: which one; relative paths are relative to the working directory.
        image_shape: the task's (C, H, W); images of another size are scaled and cropped to it.
        num_classes: the task's K.
        order: names of the task's classes, if they are known. A data set that names its classes the same, all or some of them,
            gets its labels in this order; to case, spaces, - and _ names may differ. Another one is read in its own.

    Raises:
        DataError: missing, empty or damaged data; channels or classes that do not match the task's.
    """
    require_channels(image_shape)
    source = open_source(config)
    places = None if order is None or len(order) != num_classes else places_in(source.classes, order)
    if places is None:
        return _decode(config, source, image_shape, _classes(source, num_classes))
    assert order is not None
    own = _decode(config, source, image_shape, source.classes)
    return replace(own, labels=in_order(own.labels, places), classes=tuple(order))


def in_order(labels: np.ndarray, places: np.ndarray) -> np.ndarray:
    """``places`` of labels, of their type; -1 stays."""
    return np.append(places, -1).astype(labels.dtype)[labels]


def places_in(names: tuple[str, ...] | None, order: tuple[str, ...]) -> np.ndarray | None:
    """int64 [len(names)]: where each name is in ``order``; None if one is not, or is there twice."""
    places = {_plain(name): place for place, name in enumerate(order)}
    if names is None or len(places) < len(order) or len({_plain(name) for name in names}) < len(names):
        return None
    found = [places.get(_plain(name)) for name in names]
    return None if None in found else np.array(found, dtype=np.int64)


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def load_unlabelled(config: DatasetConfig, image_shape: tuple[int, int, int]) -> ImageDataset:
    """As :func:`load_dataset`, without reading labels: they are all -1, and there are no class names."""
    require_channels(image_shape)
    return _decode(config, open_source(config, labelled=False), image_shape, None)


def _decode(
    config: DatasetConfig, source: Source, image_shape: tuple[int, int, int], classes: tuple[str, ...] | None
) -> ImageDataset:
    if source.total == 0:
        raise DataError(f"data set {source.description} is empty")
    images = np.empty((source.total, *image_shape), dtype=np.uint8)
    labels = np.empty(source.total, dtype=np.int64)
    filled = 0
    with Decoder(image_shape, config.convert) as decoder:
        for chunk in source.chunks:
            if classes is not None:
                _check_labels(chunk, source, len(classes))
            decoded, kept = decoder.decode(chunk.items, source.opener, chunk.name)
            images[filled : filled + len(kept)] = decoded
            labels[filled : filled + len(kept)] = chunk.labels[kept]
            filled += len(kept)
    tell_of(decoder, source, filled)
    return ImageDataset(
        np.ascontiguousarray(images[:filled]),
        labels[:filled],
        () if classes is None else classes,
        source.name,
        config.split,
        source.description,
        decoder.num_skipped,
    )


def require_channels(image_shape: tuple[int, int, int]) -> None:
    if image_shape[0] not in (1, 3):
        raise DataError(f"image_shape {list(image_shape)} has {image_shape[0]} channels: image files have 1 or 3")


def _classes(source: Source, num_classes: int) -> tuple[str, ...]:
    if source.classes is None:
        return tuple(str(k) for k in range(num_classes))
    if len(source.classes) != num_classes:
        raise DataError(
            f"data set {source.description} has {len(source.classes)} classes but the task has num_classes {num_classes}: "
            "change num_classes or the data set"
        )
    return source.classes


def _check_labels(chunk: Chunk, source: Source, num_classes: int) -> None:
    wrong = np.flatnonzero((chunk.labels < 0) | (chunk.labels >= num_classes))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{chunk.name(first)} has label {chunk.labels[first]}, outside [0, {num_classes}): "
            f"change num_classes or the labels of {source.description}"
        )


def tell_of(decoder: Decoder, source: Source, filled: int) -> None:
    """What reading a data set has shown. Raises DataError if none of its images could be decoded."""
    if filled == 0:
        raise DataError(
            f"none of the {source.total} images of {source.description} could be decoded (the first: "
            f"{decoder.first_skipped}): use JPEG, PNG or another common image format"
        )
    if decoder.num_skipped:
        logger.warning(
            "%s: %d of %d images could not be decoded and were skipped (the first: %s)",
            source.description,
            decoder.num_skipped,
            source.total,
            decoder.first_skipped,
        )
    if decoder.resized_from is not None:
        logger.info(
            "%s: images of different sizes (the first: %dx%d pixels) are resized to %dx%d",
            source.description,
            *decoder.resized_from,
            *decoder.image_shape[1:],
        )
