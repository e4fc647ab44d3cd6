"""Losses of Condensed Data Expansion's feature alignment (arXiv 2408.13850, Eqs 2-4). B batch; logits [B] of "real".

D(f, y) is the discriminator's probability that f is the feature of a condensed image of class y: the sigmoid of its logit.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def matching_loss(real_B: Tensor, synthetic_B: Tensor, mismatched_B: Tensor) -> Tensor:
    """The discriminator's loss: -E_R log D - E_F log(1 - D).

    R are features of condensed images with their class; F are features of synthetic images with theirs, and features of
    condensed images with another class (Eq. 4), as many of each, so that E_F is the mean of both means. Eqs 2 and 3 print
    1 - log D for F, which the discriminator could raise without bound; ours is the log(1 - D) of Goodfellow et al. 2014,
    section 3. Eq. 2's first expectation is printed over synthetic images; Eq. 4 has condensed ones there.
    """
    synthetic, mismatched = F.softplus(synthetic_B.float()).mean(), F.softplus(mismatched_B.float()).mean()
    return F.softplus(-real_B.float()).mean() + (synthetic + mismatched) / 2


def alignment_loss(synthetic_B: Tensor) -> Tensor:
    """L_FA, which the generator minimises: -E log D(phi(x^), y). Eq. 3 prints E[1 - log D], the same but for a constant."""
    return F.softplus(-synthetic_B.float()).mean()
