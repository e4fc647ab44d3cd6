"""Streams of one's own for what draws from torch's default generator."""

from __future__ import annotations

import pytest
import torch

from raydfkd.models.random_streams import RandomStreams


def streams(seed: int) -> RandomStreams:
    made = RandomStreams(torch.device("cpu"))
    made.restart(seed)
    return made


def draw(source: RandomStreams) -> list[float]:
    """From the default generator, as a layer does it: uniform and normal numbers, an odd number of the latter."""
    with source.in_use():
        return [*torch.rand(3).tolist(), *torch.randn(1).tolist()]


def test_the_numbers_are_those_of_a_generator_with_that_seed() -> None:
    drawn = draw(streams(3)), torch.Generator().manual_seed(3)
    assert drawn[0] == [*torch.rand(3, generator=drawn[1]).tolist(), *torch.randn(1, generator=drawn[1]).tolist()]


def test_a_stream_goes_on_where_it_was_left_whatever_is_drawn_outside() -> None:
    alone, among = streams(3), streams(3)
    undisturbed = [draw(alone) for _ in range(3)]
    found = []
    for _ in range(3):
        found.append(draw(among))
        torch.rand(5)
        draw(streams(9))
    assert found == undisturbed
    assert undisturbed[0] != undisturbed[1]
    among.restart(3)
    assert draw(among) == undisturbed[0]


def test_what_is_drawn_outside_does_not_notice() -> None:
    torch.manual_seed(7)
    expected = torch.randn(5).tolist()
    torch.manual_seed(7)
    found = torch.randn(2).tolist()
    draw(streams(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"), streams(3).in_use():
        torch.randn(1) @ torch.randn(2)
    assert found + torch.randn(3).tolist() == expected
