"""Figures and image arrays as text for inclusion in the page: inline SVG and PNG data addresses."""

from __future__ import annotations

import base64
import io
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from raydfkd.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RASTER_DPI = 200
_MOST_SIDE = 96
"""Longest side in pixels of a sample on the page; larger images are averaged down to it."""


def figure_svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element whose colours follow the page's light or dark mode.

    ``name`` must differ between the figures of a page: element ids are derived from it.
    """
    from matplotlib import rc_context

    written = io.StringIO()
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), warnings.catch_warnings():
        # The reader's fonts draw the text, so a glyph that only our layout font lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(written, format="svg", dpi=_RASTER_DPI, metadata={"Date": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg, count=1)
    # Ids such as figure_1 come back in every figure of the page; nothing refers to them. Those referred to are hashes.
    svg = re.sub(r'\sid="[A-Za-z0-9.]+_\d+"', "", svg)
    for colour, variable in style.CSS_VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg


def png_address(png: bytes) -> str:
    """PNG bytes as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def figure_png(figure: Figure, dpi: int = 130) -> bytes:
    """The figure as PNG bytes, on the background it has."""
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(written, format="png", dpi=dpi, metadata={"Software": None})
    return written.getvalue()


def strip_png(images: np.ndarray, gap: int = 2, first_apart: bool = False) -> bytes:
    """Images uint8 [n,C,H,W] side by side, ``gap`` transparent pixels between them. C other than 3 shows the first channel.

    ``first_apart`` leaves half an image's width behind the first.
    """
    shrunk = shrink(images, _MOST_SIDE)
    num, channels, height, width = shrunk.shape
    colour = shrunk if channels == 3 else np.repeat(shrunk[:, :1], 3, axis=1)
    apart = width // 2 if first_apart else 0
    strip = np.zeros((height, num * (width + gap) - gap + apart, 4), dtype=np.uint8)
    for number, image in enumerate(colour):
        left = number * (width + gap) + apart * (number > 0)
        strip[:, left : left + width, :3] = image.transpose(1, 2, 0)
        strip[:, left : left + width, 3] = 255
    return _png(strip)


def shrink(images: np.ndarray, most: int) -> np.ndarray:
    """uint8 [n,C,H,W] averaged over whole blocks until no side is longer than ``most``; a rest that fills no block is cut."""
    factor = -(-max(images.shape[2:]) // most)
    if factor <= 1:
        return images
    height, width = (side // factor for side in images.shape[2:])
    cut = images[:, :, : height * factor, : width * factor].astype(np.float32)
    blocks = cut.reshape(*images.shape[:2], height, factor, width, factor)
    return np.rint(blocks.mean(axis=(3, 5))).astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    from matplotlib.image import imsave

    written = io.BytesIO()
    metadata: dict[str, Any] = {"Software": None}
    imsave(written, pixels, format="png", metadata=metadata)
    return written.getvalue()
