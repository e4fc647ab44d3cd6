"""The whole augmentation in order: crop, flip, RandAugment, elastic deformation, inversion, erasing, mixup."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raydfkd.augment import color, geometry
from raydfkd.augment.config import Augmentations
from raydfkd.augment.crop_flip import random_crop_flip
from raydfkd.augment.erasing import random_erasing
from raydfkd.augment.mixup import mixup
from raydfkd.augment.randaugment import rand_augment

OUTSIDE = -1
"""Class of a mask's pixels that lie outside of the image: they do not count."""


class BatchAugmentation:
    """Augments batches as specified by ``parts``. Stateless: all randomness comes from the generator."""

    def __init__(self, parts: Augmentations) -> None:
        self.parts = parts

    def __call__(self, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """The images the networks get.

        Args:
            images_BCHW: uint8 on any device.
            generator: a CPU generator, so that the draws are the same on every device.

        Returns:
            float32 [B,C,H,W] in [0,1], on the same device, channels last.
        """
        return self._recoloured(random_crop_flip(images_BCHW, self.parts.crop_padding, self.parts.flip, generator), generator)

    def paired(self, images_BCHW: Tensor, masks_BHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As the call, with the masks moved like their images; what comes in from outside has the class ``OUTSIDE``.

        Args:
            masks_BHW: int16, classes of the pixels; the parts move them by whole pixels alone (``moves_whole_pixels``).
        """
        together = torch.cat([images_BCHW.short(), masks_BHW[:, None] - OUTSIDE], 1)  # zeros come in
        moved = random_crop_flip(together, self.parts.crop_padding, self.parts.flip, generator)
        return self._recoloured(moved[:, :-1], generator), moved[:, -1] + OUTSIDE

    def _recoloured(self, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """What follows crop and flip, of images with values 0 to 255."""
        parts = self.parts
        view = images_BCHW.float().div_(255)
        if parts.randaugment_ops:
            view = rand_augment(view, parts.randaugment_ops, parts.randaugment_magnitude, generator)
        if parts.elastic_probability > 0:
            view = _to_some(view, parts.elastic_probability, lambda some: self._deformed(some, generator), generator)
        if parts.invert_probability > 0:
            view = _to_some(view, parts.invert_probability, color.invert, generator)
        if parts.erasing_probability > 0:
            view = random_erasing(view, parts.erasing_probability, generator)
        if parts.mixup != "none":
            view = mixup(view, parts.mixup == "sample", generator)
        return view.contiguous(memory_format=torch.channels_last)

    def _deformed(self, images: Tensor, generator: torch.Generator) -> Tensor:
        size = (images.shape[2], images.shape[3])
        alpha, sigma = self.parts.elastic_alpha, self.parts.elastic_sigma
        fields = geometry.elastic_displacements(len(images), size, alpha, sigma, generator, images.device)
        return geometry.elastic(images, fields)


def _to_some(images: Tensor, probability: float, change: Callable[[Tensor], Tensor], generator: torch.Generator) -> Tensor:
    """``change`` applied to about a share ``probability`` of the images."""
    rows = (torch.rand(len(images), generator=generator) < probability).nonzero().flatten().to(images.device)
    return images.index_copy(0, rows, change(images[rows])) if len(rows) else images
