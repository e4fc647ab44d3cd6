"""Drawn shapes with masks: a segmentation task that needs no file and no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from raydfkd.data.dataset_kind import Chunk, DatasetConfig, DatasetKind, Source, evenly_spaced, numbered, read_whole, slices
from raydfkd.errors import DataError

CLASSES = ("background", "disc", "square", "triangle")
IGNORED = 255
"""In masks, of the pixels along an outline."""
SIZES = {"train": 1600, "test": 400}
_SHAPES_AN_IMAGE = 3
_OUTLINE = 0.6
"""Half the width of an outline that does not count, in pixels."""


class ShapesConfig(DatasetConfig):
    """Discs, squares and triangles of any colour on a background of any colour, with a mask of their classes for each image.
    Drawn by raydfkd: needs no file and no network. Pixels along outlines do not count, as in Pascal VOC."""

    kind: Literal["shapes"] = "shapes"

    split: Literal["train", "test"] = "test"
    """1,600 images are ``train``, 400 others ``test``."""

    size: int = Field(default=32, ge=16, le=256)
    """Height and width in pixels."""


def draw(number: int, split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One image uint8 [size,size,3] and its mask uint8 [size,size], always the same for the same arguments."""
    # RandomState, because NumPy promises never to change its stream.
    random = np.random.RandomState([number, sorted(SIZES).index(split), size])
    y, x = np.mgrid[:size, :size].astype(np.float64)
    image = np.empty((size, size, 3))
    image[:] = random.uniform(0, 255, 3) + random.uniform(-30, 30) * (x + y - size)[..., None] / size
    mask = np.zeros((size, size), np.uint8)
    for kind in random.randint(1, len(CLASSES), _SHAPES_AN_IMAGE):
        outside = _distance(kind, x, y, size, random)
        image[outside < 0] = random.uniform(0, 255, 3)
        mask[outside < 0] = kind
        mask[np.abs(outside) <= _OUTLINE] = IGNORED
    return np.clip(image + random.normal(0, 8, image.shape), 0, 255).astype(np.uint8), mask


def _distance(kind: int, x: np.ndarray, y: np.ndarray, size: int, random: np.random.RandomState) -> np.ndarray:
    """How far outside of a random shape each pixel lies, below 0 inside: for corners as far as the nearer side's line."""
    centre_x, centre_y = random.uniform(0.2 * size, 0.8 * size, 2)
    radius, angle = random.uniform(0.14, 0.28) * size, random.uniform(0, 2 * np.pi)
    x, y = x - centre_x, y - centre_y
    if CLASSES[kind] == "disc":
        return np.hypot(x, y) - radius
    sides = 4 if CLASSES[kind] == "square" else 3
    normals = angle + 2 * np.pi * np.arange(sides) / sides
    # The sides' distance from the centre, by which shapes of one radius have about one area.
    inner = radius * (0.89 if sides == 4 else 0.78)
    lines: np.ndarray = np.max([np.cos(a) * x + np.sin(a) * y for a in normals], axis=0) - inner
    return lines


def open_shapes(config: ShapesConfig, labelled: bool) -> Source:
    if labelled:
        raise DataError("the shapes have a mask of classes for each image and no labels: set task.kind to segmentation")
    return open_shape_masks(config)


def open_shape_masks(config: ShapesConfig) -> Source:
    from PIL import Image

    rows = evenly_spaced(SIZES[config.split], config.max_images)

    def chunks() -> Iterator[Chunk]:
        for part in slices(rows):
            drawn = [draw(int(row), config.split, config.size) for row in part]
            images, masks = ([pair[place] for pair in drawn] for place in (0, 1))
            yield Chunk(images, np.full(len(part), -1), numbered("shape image {}", part.tolist()), masks)

    return Source("shapes", "raydfkd's shapes", len(rows), CLASSES, Image.fromarray, chunks(), Image.fromarray, IGNORED)


def _claimed(path: Path) -> ShapesConfig | None:
    """``shapes/train`` or ``shapes/test``, unless a file or folder is called so."""
    is_ours = path.parts in (("shapes", "train"), ("shapes", "test")) and not path.exists()
    return ShapesConfig.model_validate({"split": path.name}) if is_ours else None


DATASET = DatasetKind(
    config=ShapesConfig,
    title="drawn shapes with masks",
    open=open_shapes,
    rows=read_whole(open_shapes),
    claims=_claimed,
    open_masks=open_shape_masks,
)
