"""The augmentation in steps of one shape, as GPUs take it, against the one that changes the drawn rows alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from raydfkd.augment import AugmentationConfig
from raydfkd.augment.levels import BatchAugmentation, Draws


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(num: int = 40, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (num, channels, 16, 16), generator=rng(9)).byte()


def augmentation(crop_padding: int | None = None, **settings: Any) -> BatchAugmentation:
    return BatchAugmentation(AugmentationConfig(**settings).resolve(crop_padding))


@pytest.mark.parametrize(
    "settings",
    [
        {"level": "standard"},
        {"level": "extreme", "elastic_probability": 0.0, "mixup": "sample"},
        {"level": "none", "invert_probability": 0.5, "mixup": "batch"},
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_changed_as_it_is_alone(settings: dict[str, Any], channels: int) -> None:
    augment, images = augmentation(**settings), images_of(channels=channels)
    draws = augment.draw(40, 16, 16, rng(2))
    alone, everywhere = (augment.apply(images, draws, static=static) for static in (False, True))
    torch.testing.assert_close(everywhere, alone, rtol=1e-5, atol=1e-6)
    assert everywhere.is_contiguous(memory_format=torch.channels_last)


def test_the_deformation_reaches_the_chosen_images_alone() -> None:
    augment, images = augmentation(level="none", elastic_probability=0.5), images_of()
    draws = augment.draw(40, 16, 16, rng(3))
    torch.manual_seed(0)
    view = augment.apply(images, draws, static=True)
    moved = (view - images / 255).abs().flatten(1).amax(1) > 1e-3
    assert torch.equal(moved, draws.rows_RB[0] > 0)
    torch.manual_seed(0)
    assert torch.equal(augment.apply(images, Draws(draws.rows_RB), static=True), view)


def test_the_draws_of_every_batch_have_one_shape() -> None:
    augment = augmentation(level="extreme", mixup="batch")
    generator = rng(5)
    shapes = {tuple(augment.draw(12, 16, 16, generator).rows_RB.shape) for _ in range(20)}
    assert shapes == {(3 + 8 * 2 + 1 + 1 + 4 + 2, 12)}


def test_a_call_is_its_draws_applied() -> None:
    augment, images = augmentation(level="extreme", mixup="sample"), images_of()
    assert torch.equal(augment(images, rng(7)), augment.apply(images, augment.draw(40, 16, 16, rng(7))))
