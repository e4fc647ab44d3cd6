"""How strongly images are changed before both networks see them. No torch here: the configuration tree imports this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from raydfkd.settings import Settings

SiameseOperation = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]
SIAMESE_OPERATIONS: tuple[SiameseOperation, ...] = get_args(SiameseOperation)
MAX_MAGNITUDE = 30
"""RandAugment's strongest magnitude: that of each operation grows evenly from nothing at 0 to its own most at 30."""


@dataclass(frozen=True)
class Augmentations:
    """Every part of an augmentation, resolved.

    Attributes:
        crop_padding: zeros in pixels on each side before a random crop.
        flip: mirror each image with probability 1/2.
        randaugment_ops, randaugment_magnitude: n and m of RandAugment.
        elastic_probability, invert_probability, erasing_probability: share of images that each is done to.
        elastic_alpha, elastic_sigma: strength and smoothness of the deformation; None: by the image's size.
        crop_last: crop and flip after the other operations on an image, with the mean outside of it, not before with zeros.
        mixup: nothing, or one share lambda a batch or an image.
        cutmix: alpha of its Beta(alpha, alpha); None: nothing.
    """

    crop_padding: int
    flip: bool
    randaugment_ops: int
    randaugment_magnitude: int
    elastic_probability: float
    elastic_alpha: float | None
    elastic_sigma: float | None
    invert_probability: float
    erasing_probability: float
    crop_last: bool
    mixup: Literal["none", "batch", "sample"]
    cutmix: float | None

    @property
    def moves_whole_pixels(self) -> bool:
        """Whether every pixel of the result is one of the image, or from outside, so that a mask can follow."""
        moved = self.randaugment_ops > 0 or self.elastic_probability > 0 or self.crop_last
        return not moved and self.mixup == "none" and self.cutmix is None


_NOTHING: dict[str, Any] = {
    "crop_padding": 0, "flip": False, "randaugment_ops": 0, "randaugment_magnitude": 14,
    "elastic_probability": 0.0, "invert_probability": 0.0, "erasing_probability": 0.0, "crop_last": False,
}  # fmt: skip
_CROP_FLIP = _NOTHING | {"crop_padding": 4, "flip": True}
_STANDARD = _CROP_FLIP | {"randaugment_ops": 2, "crop_last": True}
_HIGH = _STANDARD | {"randaugment_ops": 4, "elastic_probability": 0.5, "invert_probability": 0.1}
_EXTREME = _HIGH | {"randaugment_ops": 8, "randaugment_magnitude": 30, "erasing_probability": 0.25}
LEVELS: dict[str, dict[str, Any]] = {
    "none": _NOTHING, "crop_flip": _CROP_FLIP, "standard": _STANDARD, "high": _HIGH, "extreme": _EXTREME,
}  # fmt: skip
"""The levels of Table 5 of the surrogate-dataset study, with the order, the probabilities and the mean around the crop of its
first author's later code, and what the other papers do: crop and flip alone, with zeros around."""


class AugmentationConfig(Settings):
    """A level of augmentation, single parts of which may be changed. The teacher sees the augmented image too."""

    level: Literal["none", "crop_flip", "standard", "high", "extreme"] = "crop_flip"
    """none; crop_flip; standard: crop_flip and RandAugment(2, 14); high: RandAugment(4, 14), elastic deformation, inversion;
    extreme: high with RandAugment(8, 30) and random erasing."""
    randaugment_ops: int | None = Field(None, ge=0)
    """Operations that RandAugment applies to each image (n); null: the level's value."""
    randaugment_magnitude: int | None = Field(None, ge=0, le=MAX_MAGNITUDE)
    """Strength of each of them (m, of 30); null: the level's value."""
    elastic_probability: float | None = Field(None, ge=0, le=1)
    """Share of images that are deformed elastically; null: the level's value."""
    elastic_alpha: float | None = Field(None, gt=0)
    """Strength of the deformation, in half pixels before smoothing; null: 12 for 32 pixels, 50 for 224, interpolated."""
    elastic_sigma: float | None = Field(None, gt=0)
    """Smoothness of the deformation, in pixels; null: 3 for 32 pixels, 5 for 224, interpolated."""
    invert_probability: float | None = Field(None, ge=0, le=1)
    """Share of images whose values are inverted; null: the level's value."""
    erasing_probability: float | None = Field(None, ge=0, le=1)
    """Share of images in which a rectangle is blackened; null: the level's value."""
    crop_last: bool | None = None
    """Crop and flip after RandAugment, deformation and inversion, with the teacher's mean outside of the image, and not
    before them with zeros outside; null: the level's value, from standard on yes."""
    mixup: Literal["none", "batch", "sample"] = "none"
    """Mix each image with another one of its batch, in shares lambda ~ U(0, 1): one lambda per batch or per image."""
    cutmix: float | None = Field(None, gt=0)
    """Replace a rectangle of each image by another image's, of a share of its area 1 - lambda with lambda ~ Beta(cutmix,
    cutmix), one per batch; null: none."""

    @model_validator(mode="after")
    def _refuse_idle_settings(self) -> AugmentationConfig:
        parts = self.resolve()
        if self.cutmix is not None and self.mixup != "none":
            raise ValueError("mixup and cutmix exclude each other: leave one of them out")
        if parts.randaugment_ops == 0:
            self.refuse_idle("randaugment_ops 0", "randaugment_magnitude", otherwise="set randaugment_ops")
        if parts.elastic_probability == 0:
            self.refuse_idle("elastic_probability 0", "elastic_alpha", "elastic_sigma", otherwise="set elastic_probability")
        return self

    def resolve(self, crop_padding: int | None = None, flip: bool | None = None) -> Augmentations:
        """Every part: as given, otherwise as the level has it."""
        given = {name: getattr(self, name) for name in Augmentations.__dataclass_fields__ if name in type(self).model_fields}
        given |= {"crop_padding": crop_padding, "flip": flip}
        level = LEVELS[self.level]
        parts: dict[str, Any] = {name: level.get(name) if value is None else value for name, value in given.items()}
        return Augmentations(**parts)
