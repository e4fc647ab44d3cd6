"""Encoded images to uint8 arrays: threads over chunks, since PIL decodes outside Python's lock."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from raydfkd.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

# Formats such as EPS would start other programs, so only plain raster formats are opened.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_GREY_MODES = ("1", "L")
_COLOUR_MODES = ("RGB", "P")
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
_CONVERTIBLE_MODES = (*_GREY_MODES, *_COLOUR_MODES, *_SIXTEEN_BIT_MODES, "LA", "RGBA", "CMYK", "YCbCr")
# Raised by PIL's format readers for damaged bytes.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)
_PART = 64


def open_encoded(encoded: bytes | None) -> Image:
    """Opens an image from its file's bytes."""
    from io import BytesIO

    from PIL import Image

    if encoded is None:
        raise ValueError("the image is null")
    return opened(lambda: Image.open(BytesIO(encoded), formats=FORMATS))


def opened(make: Callable[[], Image]) -> Image:
    """The image returned by ``make``; ValueError if PIL suspects a decompression bomb."""
    from PIL import Image

    try:
        return make()
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error


def open_file(path: Path) -> Image:
    """Opens an image file; it is read whole, so that no handle stays open."""
    return open_encoded(path.read_bytes())


@dataclass
class Decoder:
    """Turns images into uint8 [C,H,W] of one shape, and records what it could not read or had to resize.

    An image of another size is scaled (bilinear) until it covers H x W and then centre-cropped, which keeps the aspect ratio.

    Attributes:
        image_shape: the (C, H, W) to produce, C 1 or 3.
        convert: whether grey <-> colour conversion is allowed.
        num_skipped: images that could not be decoded, so far.
        first_skipped: name and reason of the first of them.
        resized_from: (height, width) of the first image that had another size.
    """

    image_shape: tuple[int, int, int]
    convert: bool
    num_skipped: int = 0
    first_skipped: str | None = None
    resized_from: tuple[int, int] | None = None
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(os.cpu_count() or 1), repr=False)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def decode(
        self, items: Sequence[Any], opener: Callable[[Any], Image], names: Callable[[int], str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decodes a chunk.

        Args:
            items: inputs of ``opener``, one per image.
            opener: returns the PIL image of an item.
            names: returns the name of item i, for messages.

        Returns:
            images uint8 [n,C,H,W] of those that could be read, and their indices in ``items``, int64 [n].

        Raises:
            DataError: an image's channels differ from the task's and ``convert`` is off.
        """
        images, failed = self.decode_all(items, opener, names)
        if not failed:
            return images, np.arange(len(items))
        self.num_skipped += len(failed)
        self.first_skipped = self.first_skipped or failed[0][1]
        kept = np.setdiff1d(np.arange(len(items)), [i for i, _ in failed])
        return images[kept], kept

    def decode_all(
        self, items: Sequence[Any], opener: Callable[[Any], Image], names: Callable[[int], str]
    ) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """As ``decode``, with an entry for every item: uint8 [N,C,H,W], black for unreadable ones, and for each of those
        its index and its name with the reason."""
        images = np.zeros((len(items), *self.image_shape), dtype=np.uint8)
        parts = [range(start, min(start + _PART, len(items))) for start in range(0, len(items), _PART)]

        def decode_part(part: range) -> list[tuple[int, str]]:
            failures = []
            for i in part:
                try:
                    with opener(items[i]) as image:
                        images[i] = self._pixels(image, names, i)
                except DAMAGE as error:
                    failures.append((i, f"{names(i)} ({error})"))
            return failures

        return images, [failure for failures in self._pool.map(decode_part, parts) for failure in failures]

    def each(self, work: Callable[[int], T], count: int) -> list[T]:
        """``work`` of 0 .. count-1, by the decoder's threads."""
        return list(self._pool.map(work, range(count)))

    def _pixels(self, image: Image, names: Callable[[int], str], i: int) -> np.ndarray:
        channels, height, width = self.image_shape
        image.load()
        if image.mode not in _CONVERTIBLE_MODES:
            raise ValueError(f"pixel mode {image.mode} cannot be read")
        if not self.convert and image.mode not in (_GREY_MODES if channels == 1 else _COLOUR_MODES):
            raise DataError(_channel_message(names(i), image.mode, channels))
        if image.mode in _SIXTEEN_BIT_MODES:
            image = _eight_bit(image)
        wanted = "L" if channels == 1 else "RGB"
        if image.mode != wanted:
            image = image.convert(wanted)
        if image.size != (width, height):
            self.resized_from = self.resized_from or (image.height, image.width)
            image = covering(image, width, height)
        pixels = np.asarray(image)
        return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def covering(image: Image, width: int, height: int, nearest: bool = False) -> Image:
    """The image scaled until it covers so many pixels, and cut to them around its centre: bilinear, or with the values of
    nearest pixels, which alone keeps classes."""
    from PIL import Image, ImageOps

    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return ImageOps.fit(image, (width, height), method=method)


def _eight_bit(image: Image) -> Image:
    """Grey of 16 bits scaled to 8; PIL's own conversion clips it."""
    from PIL import Image

    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _channel_message(name: str, mode: str, channels: int) -> str:
    has = {"L": "1 channel", "1": "1 channel", "RGB": "3 channels", "P": "3 channels"}.get(mode, f"pixel mode {mode}")
    return f"{name} has {has} but the task's image_shape has {channels}: change image_shape or set convert: true"
