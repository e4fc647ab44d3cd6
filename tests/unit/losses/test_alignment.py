"""Feature alignment's losses against hand values."""

from __future__ import annotations

import math

import pytest
import torch

from raydfkd.losses.alignment import alignment_loss, matching_loss


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_the_discriminators_loss_weighs_real_and_unreal_equally() -> None:
    real, synthetic, mismatched = torch.tensor([2.0, 0.0]), torch.tensor([1.0]), torch.tensor([-1.0, -1.0, 0.0])
    expected = (softplus(-2) + softplus(0)) / 2 + (softplus(1) + (2 * softplus(-1) + softplus(0)) / 3) / 2
    assert matching_loss(real, synthetic, mismatched).item() == pytest.approx(expected, rel=1e-6)


def test_the_discriminators_loss_has_a_floor() -> None:
    """As Eqs 2 and 3 are printed, it would fall without bound."""
    sure = torch.tensor([1000.0])
    assert matching_loss(sure, -sure, -sure).item() == 0


def test_the_generators_loss_is_minus_the_log_of_being_real() -> None:
    logits = torch.tensor([0.5, -3.0], requires_grad=True)
    loss = alignment_loss(logits)
    assert loss.item() == pytest.approx((softplus(-0.5) + softplus(3)) / 2, rel=1e-6)
    loss.backward()
    torch.testing.assert_close(logits.grad, -torch.sigmoid(-torch.tensor([0.5, -3.0])) / 2)
