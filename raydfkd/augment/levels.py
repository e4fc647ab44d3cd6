"""The whole augmentation in order: crop and flip, RandAugment, elastic deformation, inversion, erasing, mixup or CutMix; with
``crop_last``, crop and flip only before erasing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raydfkd.augment import color, geometry
from raydfkd.augment.config import Augmentations
from raydfkd.augment.crop_flip import random_crop_flip
from raydfkd.augment.cutmix import cutmix
from raydfkd.augment.erasing import random_erasing
from raydfkd.augment.mixup import mixup
from raydfkd.augment.randaugment import rand_augment


class BatchAugmentation:
    """Augments batches as specified by ``parts``. Stateless: all randomness comes from the generator.

    Args:
        mean: float [C] in [0,1], the mean of each channel, which is outside of images where the crop is last; black without it.
    """

    def __init__(self, parts: Augmentations, mean: Tensor | None = None) -> None:
        self.parts = parts
        self._mean = torch.zeros(1) if mean is None else mean.detach()

    def __call__(self, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """The images the networks get.

        Args:
            images_BCHW: uint8 on any device.
            generator: a CPU generator, so that the draws are the same on every device.

        Returns:
            float32 [B,C,H,W] in [0,1], on the same device, channels last.
        """
        parts = self.parts
        outside = self._mean.to(images_BCHW.device).view(1, -1, 1, 1)
        if parts.crop_last:
            view = images_BCHW.float().div_(255)
        else:
            view = random_crop_flip(images_BCHW, parts.crop_padding, parts.flip, generator).float().div_(255)
            outside = torch.zeros_like(outside)
        if parts.randaugment_ops:
            view = rand_augment(view, parts.randaugment_ops, parts.randaugment_magnitude, generator, outside)
        if parts.elastic_probability > 0:
            view = _to_some(view, parts.elastic_probability, lambda some: self._deformed(some, generator), generator)
        if parts.invert_probability > 0:
            view = _to_some(view, parts.invert_probability, color.invert, generator)
        if parts.crop_last:
            view = (random_crop_flip(view - outside, parts.crop_padding, parts.flip, generator) + outside).clamp_(0, 1)
        if parts.erasing_probability > 0:
            view = random_erasing(view, parts.erasing_probability, generator)
        if parts.mixup != "none":
            view = mixup(view, parts.mixup == "sample", generator)
        if parts.cutmix is not None:
            view = cutmix(view, parts.cutmix, generator)
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
