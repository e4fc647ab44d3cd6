"""PSAQ-ViT's patch-similarity loss against hand values."""

from __future__ import annotations

import math

import pytest
import torch

from raydfkd.losses.patches import BANDWIDTH, LEAST_DENSITY, patch_similarity_loss

PEAK = 1 / (BANDWIDTH * math.sqrt(2 * math.pi))


def plogp(density: float) -> float:
    return (density + LEAST_DENSITY) * math.log(density + LEAST_DENSITY)


def test_two_opposite_kinds_of_patches_by_hand() -> None:
    """Cosines 1, 0, 0, 1: half of the kernels at each end of the ten points on [0,1], nothing between them."""
    tokens = torch.tensor([[[3.0, 0.0], [0.0, 0.5]]])
    expected = (plogp(PEAK / 2) + 8 * plogp(0.0)) / 9
    assert patch_similarity_loss(tokens).item() == pytest.approx(expected, rel=1e-5)


def test_close_similarities_by_loops() -> None:
    """Kernels that overlap: cosines of 0.97 to 1, in float64, one pair and one point at a time."""
    tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [1.0, -0.15]]])
    angles = [math.atan2(y, x) for x, y in tokens[0].tolist()]
    cosines = [math.cos(a - b) for a in angles for b in angles]
    points = [min(cosines) + (max(cosines) - min(cosines)) * i / 9 for i in range(10)]
    densities = [sum(math.exp(-0.5 * ((x - c) / BANDWIDTH) ** 2) for c in cosines) / len(cosines) * PEAK for x in points]
    values = [plogp(density) for density in densities]
    expected = sum((values[i] + values[i + 1]) / 2 * (points[i + 1] - points[i]) for i in range(9))
    assert patch_similarity_loss(tokens).item() == pytest.approx(expected, rel=1e-3)


def test_images_count_alike_and_share_the_points() -> None:
    """The second image's cosines are all 1: whole kernels at the upper end, nothing at the lower."""
    one, other = torch.tensor([[3.0, 0.0], [0.0, 0.5]]), torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    first = (plogp(PEAK / 2) + 8 * plogp(0.0)) / 9
    second = ((plogp(PEAK) + plogp(0.0)) / 2 + 8 * plogp(0.0)) / 9
    assert patch_similarity_loss(torch.stack([one, other])).item() == pytest.approx((first + second) / 2, rel=1e-4)


def test_patches_all_alike_have_no_entropy_and_a_finite_gradient() -> None:
    tokens = torch.ones(2, 4, 3, requires_grad=True)
    loss = patch_similarity_loss(tokens)
    loss.backward()
    assert loss.item() == 0
    assert tokens.grad is not None
    assert torch.isfinite(tokens.grad).all()


def test_its_gradient_spreads_the_similarities() -> None:
    tokens = (1 + 0.3 * torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()
    optimizer = torch.optim.Adam([tokens], 0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = patch_similarity_loss(tokens)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
