"""Small images for the readers' tests."""

from __future__ import annotations

import io

import numpy as np


def encoded(pixels: np.ndarray, file_format: str = "PNG") -> bytes:
    """Bytes of an image file; pixels uint8 [H,W] or [H,W,3]."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=file_format)
    return buffer.getvalue()


def coloured(number: int, size: int = 8) -> np.ndarray:
    """uint8 [H,W,3], another one for each number."""
    return np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
