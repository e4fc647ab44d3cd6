"""Random crop and flip of a batch against a per-image loop, and the distribution of its draws."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from raydfkd.augment import random_crop_flip, random_roll_flip


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_by_one(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Pads, cuts and mirrors each image by slicing, from the same draws."""
    num, _, height, width = images.shape
    rows, columns = torch.randint(0, 2 * padding + 1, (2, num), generator=generator).tolist()
    flipped = (torch.rand(num, generator=generator) < 0.5).tolist() if flip else [False] * num
    out = []
    for image, row, column, mirror in zip(images, rows, columns, flipped, strict=True):
        padded = torch.zeros(image.shape[0], height + 2 * padding, width + 2 * padding, dtype=image.dtype)
        padded[:, padding : padding + height, padding : padding + width] = image
        cut = padded[:, row : row + height, column : column + width]
        out.append(cut.flip(2) if mirror else cut)
    return torch.stack(out)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, False), (2, True), (9, True)])
def test_equals_a_loop_over_images(dtype: torch.dtype, padding: int, flip: bool) -> None:
    images = torch.randint(1, 256, (40, 3, 6, 5), generator=rng(7)).to(dtype)
    view = random_crop_flip(images, padding, flip, rng(3))
    assert view.dtype == dtype
    assert torch.equal(view, one_by_one(images, padding, flip, rng(3)))


def test_memory_format_changes_nothing() -> None:
    images = torch.rand(8, 3, 6, 6, generator=rng())
    other = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(random_crop_flip(images, 2, True, rng(1)), random_crop_flip(other, 2, True, rng(1)))


def test_nothing_to_do_gives_the_input_itself_and_draws_nothing() -> None:
    images, generator = torch.rand(4, 1, 4, 4), rng(5)
    before = generator.get_state()
    assert random_crop_flip(images, 0, False, generator) is images
    assert torch.equal(generator.get_state(), before)


def test_the_input_is_left_alone_and_a_seed_repeats() -> None:
    images = torch.rand(16, 1, 4, 4, generator=rng())
    copy = images.clone()
    first, again, other = (random_crop_flip(images, 2, True, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(images, copy)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def draws(num: int, padding: int) -> Tensor:
    """(row offset, column offset, mirrored) [num,3] of each sample, read off pictures whose pixels are numbered."""
    side = 2 * padding + 2  # so that two neighbouring pixels of the middle are seen whatever the offset
    pixels = torch.arange(1, side * side + 1, dtype=torch.float32).view(1, 1, side, side)
    view = random_crop_flip(pixels.expand(num, 1, side, side), padding, True, rng(11))
    middle = side // 2
    seen = view[:, 0, middle, middle - 1 : middle + 1].long() - 1
    mirrored = (seen[:, 1] < seen[:, 0]).long()
    row = seen[:, 0] // side - middle + padding
    left = torch.where(mirrored == 1, seen[:, 1], seen[:, 0]) % side
    return torch.stack([row, left - (middle - 1) + padding, mirrored], 1)


def test_offsets_and_mirroring_are_uniform_and_independent() -> None:
    """Chi-square over all 5 x 5 x 2 cells: 49 degrees of freedom, of which 99.9% stay under 85.4."""
    num, padding = 20_000, 2
    found = draws(num, padding)
    assert found[:, :2].min() == 0
    assert found[:, :2].max() == 2 * padding
    cells = torch.bincount(found[:, 0] * 10 + found[:, 1] * 2 + found[:, 2], minlength=50).double()
    expected = num / 50
    assert float(((cells - expected) ** 2 / expected).sum()) < 85.4


def test_neighbours_in_a_batch_are_drawn_apart() -> None:
    found = draws(5_000, 2)
    same = (found[1:] == found[:-1]).all(1).float().mean()
    assert same.item() == pytest.approx(1 / 50, abs=0.008)


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (1, False), (0, True)])
def test_the_gradient_is_the_scatter_of_the_forward(padding: int, flip: bool) -> None:
    shape = (5, 2, 4, 6)
    numbers = torch.arange(1, 5 * 2 * 4 * 6 + 1, dtype=torch.float64).view(shape)
    sources = random_crop_flip(numbers, padding, flip, rng(4)).long()  # where each pixel came from, 0 for padding
    images = numbers.clone().requires_grad_()
    upstream = torch.rand(shape, generator=rng(9), dtype=torch.float64)
    (random_crop_flip(images, padding, flip, rng(4)) * upstream).sum().backward()
    expected = torch.zeros(numbers.numel() + 1, dtype=torch.float64).index_add_(0, sources.flatten(), upstream.flatten())
    assert images.grad is not None
    torch.testing.assert_close(images.grad, expected[1:].view(shape), rtol=0, atol=0)


@pytest.mark.parametrize("flip", [False, True])
def test_a_roll_loses_no_pixel_and_moves_by_no_more_than_the_shift(flip: bool) -> None:
    images = torch.arange(200 * 20).float().view(200, 1, 4, 5)
    rolled = random_roll_flip(images, 1, flip, torch.Generator().manual_seed(0))
    expected = {
        (rows, columns, mirrored): (images.flip(3) if mirrored else images).roll((rows, columns), (2, 3))
        for rows, columns in itertools.product((-1, 0, 1), repeat=2)
        for mirrored in {False, flip}
    }
    seen = [next(move for move, moved in expected.items() if torch.equal(moved[i], rolled[i])) for i in range(200)]
    assert set(seen) == set(expected)
    assert random_roll_flip(images, 0, False, torch.Generator()) is images
