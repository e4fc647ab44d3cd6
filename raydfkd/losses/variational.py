"""Losses of PRE-DFKD's memory, a variational autoencoder (Binici et al., AAAI 2022). B batch, Z latent width."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def gaussian_kl(mean_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """(1/B) sum_i KL( N(mean_i, variance_i) || N(0,I) ) = (1/B) sum_iz (mean^2 + variance - 1 - log variance) / 2."""
    return 0.5 * (mean_BZ**2 + log_variance_BZ.exp() - 1 - log_variance_BZ).sum(1).mean()


def reconstruction_losses(
    made: Tensor, given: Tensor, made_logits_BK: Tensor, given_logits_BK: Tensor
) -> tuple[Tensor, Tensor]:
    """How far reconstructed images are from what was given: mean |pixels| and mean |teacher's logits|, two scalars.

    The published code's reconstruction loss, which is their sum. What was given is a constant.
    """
    pixels = F.l1_loss(made.float(), given.detach().float())
    return pixels, F.l1_loss(made_logits_BK.float(), given_logits_BK.detach().float())


def latent_moments_loss(latents_BZ: Tensor) -> Tensor:
    """Keeps refined latents where the decoder expects them: the mean over Z of (var_z - 1)^2 plus that of mean_z^2.

    Variance (unbiased) and mean are over the batch.
    """
    return ((latents_BZ.var(0) - 1) ** 2).mean() + (latents_BZ.mean(0) ** 2).mean()
