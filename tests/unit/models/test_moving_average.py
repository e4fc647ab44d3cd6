"""The moving average against its closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raydfkd.models.moving_average import update_average


def after(limit: float, num_updates: int) -> tuple[list[Tensor], list[Tensor]]:
    """An average of (1, 3), 5 and the whole number 2 after an update towards (2, 7), 1 and 9, and these."""
    average = [torch.tensor([1.0, 3.0]), torch.tensor(5.0), torch.tensor(2)]
    current = [torch.tensor([2.0, 7.0]), torch.tensor(1.0), torch.tensor(9)]
    update_average(iter(average), iter(current), limit, num_updates)
    return average, current


@pytest.mark.parametrize(("limit", "num_updates", "decay"), [(0.999, 1, 2 / 11), (0.999, 8, 0.5), (0.25, 8, 0.25)])
def test_the_decay_grows_with_the_updates_up_to_its_limit(limit: float, num_updates: int, decay: float) -> None:
    average, current = after(limit, num_updates)
    torch.testing.assert_close(average[0], torch.tensor([2 - decay, 7 - 4 * decay]))
    torch.testing.assert_close(average[1], torch.tensor(1 + 4 * decay))
    assert current[0].tolist() == [2.0, 7.0]


def test_whole_numbers_are_copied() -> None:
    assert after(0.999, 8)[0][2].item() == 9


def test_without_decay_the_average_is_the_network_bit_for_bit() -> None:
    average, current = after(0.0, 8)
    assert all(torch.equal(mine, newest) for mine, newest in zip(average, current, strict=True))


def test_an_average_of_another_network_is_a_bug() -> None:
    with pytest.raises(ValueError, match="longer"):
        update_average([torch.zeros(1)], [torch.zeros(1), torch.zeros(1)], 0.5, 1)
