"""The whole augmentation in order: crop and flip, RandAugment, elastic deformation, inversion, erasing, mixup or CutMix; with
``crop_last``, crop and flip only before erasing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raydfkd.augment import color, geometry
from raydfkd.augment.config import Augmentations
from raydfkd.augment.crop_flip import crop_flip, draw_places
from raydfkd.augment.cutmix import draw_cut, paste
from raydfkd.augment.erasing import draw_erased, erase
from raydfkd.augment.mixup import draw_mixture, mix
from raydfkd.augment.randaugment import apply_everywhere, apply_operations, draw_operations


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch's augmentation.

    Attributes:
        rows_RB: float32 [R,B], some rows for each part of the augmentation, in order; the same number for every batch.
        noise_seed: of the elastic deformation's fields on a CPU; None: no image is deformed.
    """

    rows_RB: Tensor
    noise_seed: int | None = None

    def to(self, device: torch.device) -> Draws:
        """On a device, without waiting for it."""
        return replace(self, rows_RB=self.rows_RB.to(device, non_blocking=True))


OUTSIDE = -1
"""Class of a mask's pixels that lie outside of the image: they do not count."""


class BatchAugmentation:
    """Augments batches as specified by ``parts``. Stateless: all randomness comes from the generator.

    Args:
        mean: float [C] in [0,1], the mean of each channel, which is outside of images where the crop is last; black without it.
    """

    def __init__(self, parts: Augmentations, mean: Tensor | None = None) -> None:
        self.parts = parts
        self._mean = (torch.zeros(1) if mean is None else mean.detach()).view(1, -1, 1, 1)

    def __call__(self, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """The images the networks get.

        Args:
            images_BCHW: uint8 on any device.
            generator: a CPU generator, so that the draws are the same on every device.

        Returns:
            float32 [B,C,H,W] in [0,1], on the same device, channels last.
        """
        num, _, height, width = images_BCHW.shape
        return self.apply(images_BCHW, self.draw(num, height, width, generator).to(images_BCHW.device))

    def draw(self, num: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Draws for ``num`` images, on the CPU."""
        parts, rows, seed = self.parts, [torch.empty(0, num)], None
        if self._crops and not parts.crop_last:
            rows.append(draw_places(num, parts.crop_padding, parts.flip, generator))
        for _ in range(parts.randaugment_ops):
            operations, signs = draw_operations(num, generator)
            rows.append(torch.stack([operations.float(), signs]))
        if parts.elastic_probability > 0:
            rows.append(_some(num, parts.elastic_probability, generator))
            seed = geometry.draw_seed(generator) if rows[-1].any() else None
        if parts.invert_probability > 0:
            rows.append(_some(num, parts.invert_probability, generator))
        if self._crops and parts.crop_last:
            rows.append(draw_places(num, parts.crop_padding, parts.flip, generator))
        if parts.erasing_probability > 0:
            rows.append(draw_erased(num, height, width, parts.erasing_probability, generator))
        if parts.mixup != "none":
            rows.append(draw_mixture(num, parts.mixup == "sample", generator))
        if parts.cutmix is not None:
            rows.append(draw_cut(num, height, width, parts.cutmix, generator))
        return Draws(torch.cat([each.float() for each in rows]), seed)

    def apply(self, images_BCHW: Tensor, draws: Draws, static: bool | None = None) -> Tensor:
        """As a call, with draws that are on the images' device.

        Args:
            static: steps of one shape whatever was drawn, so that a CUDA graph can hold them and nothing waits for the device;
                images that keep their values are computed too, and the deformation's noise is of the device's default
                generator. None: on GPUs alone.
        """
        rows = _Rows(draws.rows_RB)
        view = images_BCHW if self.parts.crop_last else self._moved(images_BCHW, rows)
        return self._recoloured(view, rows, draws.noise_seed, static)

    def apply_paired(self, images_BCHW: Tensor, masks_BHW: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """As :meth:`apply`, with the masks moved like their images; what comes in from outside has the class ``OUTSIDE``.

        Args:
            masks_BHW: int16, classes of the pixels; the parts move them by whole pixels alone (``moves_whole_pixels``).
        """
        rows = _Rows(draws.rows_RB)
        together = torch.cat([images_BCHW.short(), masks_BHW[:, None] - OUTSIDE], 1)  # zeros come in
        moved = self._moved(together, rows)
        return self._recoloured(moved[:, :-1], rows, draws.noise_seed), moved[:, -1] + OUTSIDE

    @property
    def _crops(self) -> bool:
        return self.parts.crop_padding > 0 or self.parts.flip

    def _moved(self, images_BCHW: Tensor, rows: _Rows) -> Tensor:
        return crop_flip(images_BCHW, rows.take(3).long(), self.parts.crop_padding) if self._crops else images_BCHW

    def _recoloured(self, view: Tensor, rows: _Rows, noise_seed: int | None, static: bool | None = None) -> Tensor:
        """What follows the first crop and flip, of images with values 0 to 255."""
        parts = self.parts
        static = view.device.type != "cpu" if static is None else static
        view = view.float().div_(255)
        outside = self._mean.to(view.device) if parts.crop_last else 0.0
        for _ in range(parts.randaugment_ops):
            operations, signs = rows.take(2)
            apply = apply_everywhere if static else apply_operations
            view = apply(view, operations.long(), signs, parts.randaugment_magnitude, outside)
        some = _everywhere if static else _rows_alone
        if parts.elastic_probability > 0:
            seed = None if static else noise_seed
            view = some(view, rows.take(1)[0], lambda chosen: self._deformed(chosen, seed))
        if parts.invert_probability > 0:
            view = some(view, rows.take(1)[0], color.invert)
        if parts.crop_last:
            view = (self._moved(view - outside, rows) + outside).clamp_(0, 1)
        if parts.erasing_probability > 0:
            view = erase(view, rows.take(4).long())
        if parts.mixup != "none":
            view = mix(view, rows.take(2))
        if parts.cutmix is not None:
            view = paste(view, rows.take(4).long())
        return view.contiguous(memory_format=torch.channels_last)

    def _deformed(self, images: Tensor, seed: int | None) -> Tensor:
        own = None if seed is None else torch.Generator(images.device).manual_seed(seed)
        noise = torch.rand(len(images), 2, *images.shape[2:], generator=own, device=images.device)
        return geometry.elastic(
            images, geometry.smoothed_displacements(noise, self.parts.elastic_alpha, self.parts.elastic_sigma)
        )


class _Rows:
    """Rows of a batch's draws, taken in order."""

    def __init__(self, rows_RB: Tensor) -> None:
        self._rows = rows_RB
        self._taken = 0

    def take(self, count: int) -> Tensor:
        self._taken += count
        return self._rows[self._taken - count : self._taken]


def _some(num: int, probability: float, generator: torch.Generator) -> Tensor:
    """float32 [1,num]: 1 for about a share ``probability`` of the images, 0 for the others."""
    return (torch.rand(1, num, generator=generator) < probability).float()


def _rows_alone(images: Tensor, chosen_B: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """``change`` applied to the chosen images."""
    rows = chosen_B.nonzero().flatten()
    return images.index_copy(0, rows, change(images[rows])) if len(rows) else images


def _everywhere(images: Tensor, chosen_B: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The same, with ``change`` applied to all images."""
    return torch.where(chosen_B.view(-1, 1, 1, 1) > 0, change(images), images)
