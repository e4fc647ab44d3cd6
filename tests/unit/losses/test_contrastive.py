"""CMI's contrastive loss against hand values."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from raydfkd.losses.contrastive import contrastive_loss


def unit(*rows: list[float]) -> torch.Tensor:
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=1).requires_grad_()


def test_it_is_the_mean_of_the_current_rows_plus_that_of_the_earlier_ones() -> None:
    """Row 1 finds its own view (cosine 1 among 1, 0, -1), rows 2 and 3 do not (0 among 0, 1 and 0; -1 among 1, 0 and -1)."""
    local = unit([1, 0], [1, 0], [1, 0])
    others = unit([1, 0], [0, 1], [-1, 0])
    total = math.log(math.exp(2) + 1 + math.exp(-2))  # temperature 1/2
    loss = contrastive_loss(local, others, 1, 0.5)
    assert loss.item() == pytest.approx((total - 2) + ((total - 0) + (total + 2)) / 2, rel=1e-6)


def test_without_earlier_rows_it_is_one_mean() -> None:
    local, others = unit([1, 0], [0, 1]), unit([1, 0], [0, 1])
    assert contrastive_loss(local, others, 2, 1.0).item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)


def test_global_views_are_constants() -> None:
    local, others = (torch.randn(4, 3, generator=torch.Generator().manual_seed(i), requires_grad=True) for i in (0, 1))
    contrastive_loss(local, others, 2, 0.1).backward()
    assert local.grad is not None
    assert (local.grad.abs().sum(1) > 0).all()
    assert others.grad is None
