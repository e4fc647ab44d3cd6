"""Losses of dataset condensation against their closed forms."""

from __future__ import annotations

import torch

from raydfkd.losses.condensation import distribution_matching_loss, gradient_matching_loss, trajectory_matching_loss


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_distribution_matching_is_the_squared_distance_of_the_means() -> None:
    real, synthetic = torch.tensor([[0.0, 2.0], [2.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert float(distribution_matching_loss(real, synthetic)) == 9.0
    shuffled = real[torch.tensor([1, 0])]
    assert float(distribution_matching_loss(real, shuffled)) == 0.0


def test_gradient_matching_is_one_minus_the_cosine_of_each_output_node() -> None:
    """Of a layer's rows: equal directions give 0, orthogonal ones 1, opposite ones 2, at any length; biases give none."""
    theirs = [torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]]), torch.tensor([5.0, -5.0, 5.0])]
    ours = [torch.tensor([[7.0, 0.0], [2.0, 0.0], [-2.0, -2.0]]), torch.tensor([-1.0, 1.0, 1.0])]
    torch.testing.assert_close(gradient_matching_loss(theirs, ours), torch.tensor(3.0), atol=1e-5, rtol=0)
    kernels = torch.randn(4, 2, 3, 3, generator=rng())
    torch.testing.assert_close(gradient_matching_loss([kernels], [2 * kernels]), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_gradient_matching_has_the_gradient_of_its_values() -> None:
    theirs = torch.randn(3, 4, generator=rng(), dtype=torch.float64)
    ours = torch.randn(3, 4, generator=rng().manual_seed(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda one: gradient_matching_loss([theirs], [one]), (ours,))


def test_trajectory_matching_is_one_where_nothing_moved_and_zero_at_the_target() -> None:
    start, target = torch.tensor([0.0, 0.0]), torch.tensor([3.0, 4.0])
    assert float(trajectory_matching_loss(start, start, target)) == 1.0
    assert float(trajectory_matching_loss(target, start, target)) == 0.0
    half_way = trajectory_matching_loss(torch.tensor([3.0, 0.0]), start, target)
    torch.testing.assert_close(half_way, torch.tensor(16 / 25), atol=1e-6, rtol=0)
