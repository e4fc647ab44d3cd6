"""A student with dropout: its draws depend on the seed alone, and nobody else's depend on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from tiny_distillation import drawn, make, parameters
from torch import Tensor, nn

from raydfkd.distillation.distiller import Distiller


def with_dropout(seed: int, **settings: object) -> Distiller:
    """A distiller at a round's beginning whose student drops half of what its last layer sees."""
    distiller = make(**settings)
    assert isinstance(distiller.student.fc, nn.Linear)
    distiller.student.fc = nn.Sequential(nn.Dropout(0.5), distiller.student.fc)
    distiller.reseed(seed)
    return distiller


def after(distiller: Distiller, num_steps: int) -> Tensor:
    for number in range(num_steps):
        distiller.step(*drawn(number))
    return parameters(distiller.student)


def test_a_seed_repeats_it_whatever_else_is_drawn() -> None:
    one, other = with_dropout(3, crop_padding=1), with_dropout(3, crop_padding=1)
    expected = after(one, 3)
    for number in range(3):
        torch.rand(number + 1)
        other.step(*drawn(number))
    assert torch.equal(parameters(other.student), expected)


def test_another_seed_drops_otherwise() -> None:
    assert not torch.equal(after(with_dropout(3), 1), after(with_dropout(4), 1))


def test_every_step_and_every_part_of_a_batch_drops_otherwise() -> None:
    masks: list[Tensor] = []
    distiller = with_dropout(3, accumulation_steps=2)
    dropout = distiller.student.fc[0]  # type: ignore[index]
    dropout.register_forward_pre_hook(lambda layer, taken: torch.ones_like(taken[0]))
    dropout.register_forward_hook(lambda layer, taken, given: masks.append(given == 0))
    after(distiller, 2)
    assert len(masks) == 4
    assert all(int(mask.sum()) > 0 for mask in masks)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(masks, 2))


def test_students_that_take_turns_learn_what_each_learns_alone() -> None:
    alone = [after(with_dropout(seed), 3) for seed in (3, 4)]
    pair = [with_dropout(seed) for seed in (3, 4)]
    for number in range(3):
        for distiller in pair:
            distiller.step(*drawn(number))
    for distiller, expected in zip(pair, alone, strict=True):
        assert torch.equal(parameters(distiller.student), expected)


@pytest.mark.parametrize("make_one", [make, lambda: with_dropout(3)])
def test_a_step_leaves_the_default_generator_as_it_was(make_one: Callable[[], Distiller]) -> None:
    distiller = make_one()
    state = torch.get_rng_state()
    distiller.step(*drawn())
    assert torch.equal(torch.get_rng_state(), state)
