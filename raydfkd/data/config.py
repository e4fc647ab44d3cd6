"""Settings of the images that a run or a build is given. No torch here: the settings tree includes these classes."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from raydfkd.data.kinds import AnyDataset
from raydfkd.settings import InputPath, Settings


class CollectedConfig(Settings):
    """A few real images from anywhere, to train on. Their labels, if any, are not read: the teacher says what they show."""

    dataset: AnyDataset
    """Where they are."""
    num_images: int | None = Field(default=None, ge=2)
    """How many to choose at random; null: all."""
    imbalance: float | None = Field(default=None, ge=1)
    """Choose a long tail: the first class's images over the last one's, shrinking exponentially between; null: as they come."""
    balanced: bool = False
    """Choose as many of every class that the teacher sees at all, repeating images where it sees too few."""
    original_size: int | None = Field(default=None, ge=1)
    """Images that the teacher was trained on, of which rho = collected / original is reported; null: not known."""
    exclude: InputPath | None = None
    """Parquet file of images, as raydfkd writes them, that are never chosen: those that a sweep holds out. null: none."""

    @model_validator(mode="after")
    def _choice_fits_together(self) -> Self:
        if self.imbalance is not None and self.num_images is None:
            raise ValueError("imbalance needs num_images: how many images the long tail shall have")
        if self.balanced and self.imbalance is not None:
            raise ValueError("balanced and imbalance exclude each other: leave one of them out")
        if self.balanced and self.num_images is None:
            raise ValueError("balanced needs num_images: how many images all classes together shall have")
        return self
