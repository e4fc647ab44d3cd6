"""Settings of the images that a run or a build is given. No torch here: the settings tree includes these classes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from raydfkd.data.kinds import AnyDataset
from raydfkd.settings import InputPath, Settings


class CollectedConfig(Settings):
    """A few real or condensed images from anywhere, to train on. The teacher classifies them."""

    dataset: AnyDataset
    """Where the images are."""
    labels: Literal["teacher", "dataset"] = "teacher"
    """What says which class an image is of, to choose images by class and to train generators on them: the teacher, so that no
    label is read, or the data set's own labels, which condensed images have by design. Students never see them."""
    num_images: int | None = Field(default=None, ge=2)
    """How many to choose at random; null: all."""
    imbalance: float | None = Field(default=None, ge=1)
    """Choose a long tail: the first class's images over the last one's, falling exponentially in between; null: unchanged."""
    balanced: bool = False
    """Choose equally many of every class that occurs at all, repeating images of classes with too few."""
    confident: bool = False
    """Choose those of which the teacher is surest (DFND), instead of at random."""
    original_size: int | None = Field(default=None, ge=1)
    """Images that the teacher was trained on, for reporting rho = collected / original; null: not known."""
    exclude: InputPath | None = None
    """Parquet file of images, as raydfkd writes them, that are never chosen, such as a sweep's held-out images; null: none."""

    @model_validator(mode="after")
    def _choice_fits_together(self) -> Self:
        if self.imbalance is not None and self.num_images is None:
            raise ValueError("imbalance needs num_images: how many images the long tail has")
        if self.balanced and self.imbalance is not None:
            raise ValueError("balanced and imbalance exclude each other: leave one of them out")
        if self.confident and (self.balanced or self.imbalance is not None):
            raise ValueError("confident and balanced or imbalance exclude each other: leave one of them out")
        if self.confident and self.num_images is None:
            raise ValueError("confident needs num_images: how many of the images are used")
        if self.balanced and self.num_images is None:
            raise ValueError("balanced needs num_images: how many images all classes have in total")
        return self
