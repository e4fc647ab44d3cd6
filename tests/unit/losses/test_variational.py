"""The losses of PRE-DFKD's memory against hand values."""

from __future__ import annotations

import math

import pytest
import torch

from raydfkd.losses.variational import gaussian_kl, latent_moments_loss, reconstruction_losses


def test_gaussian_kl_is_torchs_own() -> None:
    mean, log_variance = torch.tensor([[1.0, 0.0], [0.0, -2.0]]), torch.tensor([[0.0, math.log(4)], [-1.0, 0.0]])
    ours = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected)
    assert gaussian_kl(torch.zeros(3, 2), torch.zeros(3, 2)).item() == 0


def test_reconstruction_is_a_mean_over_pixels_and_one_over_logits() -> None:
    made, given = torch.full((2, 1, 2, 2), 0.5, requires_grad=True), torch.zeros(2, 1, 2, 2, requires_grad=True)
    pixels, logits = reconstruction_losses(made, given, torch.tensor([[1.0, -3.0]]), torch.tensor([[0.0, 0.0]]))
    assert (pixels.item(), logits.item()) == (0.5, 2.0)
    pixels.backward()
    assert made.grad is not None
    assert given.grad is None


def test_moments_are_over_the_batch() -> None:
    # The first coordinate has mean 1 and variance 2, the second mean 0 and variance 8.
    latents = torch.tensor([[0.0, 2.0], [2.0, -2.0]])
    assert latent_moments_loss(latents).item() == pytest.approx((1 + 49) / 2 + (1 + 0) / 2)
