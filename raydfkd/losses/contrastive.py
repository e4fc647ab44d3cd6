"""Contrastive losses between two views of each image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(local_MD: Tensor, global_MD: Tensor, num_current: int, temperature: float) -> Tensor:
    """Every local view must find its own image's global view among all (Fang et al., IJCAI 2021, in the form of its code).

    With l and g the projections of unit length and S(i) = -log( exp(l_i . g_i / T) / sum_j exp(l_i . g_j / T) ):

        (1/B) sum_{i <= B} S(i)  +  (1/(M-B)) sum_{i > B} S(i)

    The two means are separate, as in the published code, since one mean over all rows would leave the current batch a share
    B/M of the gradient. The g are constants: the gradient goes through local views only. Without rows of earlier batches the
    second mean is 0.

    Args:
        local_MD, global_MD: rows of unit length, B of the current batch and then those of earlier ones; row i of both is one
            image.
        num_current: B, 1 to M.
        temperature: T > 0.
    """
    logits_MM = local_MD.float() @ global_MD.detach().float().T / temperature
    losses_M = F.cross_entropy(logits_MM, torch.arange(len(logits_MM), device=logits_MM.device), reduction="none")
    current = losses_M[:num_current].mean()
    return current if num_current == len(losses_M) else current + losses_M[num_current:].mean()


def paired_contrastive_loss_per_sample(one_BD: Tensor, other_BD: Tensor, temperature: float, counted_B: Tensor) -> Tensor:
    """Every view must find its image's other view among all views (KD3, Tang et al., NeurIPS 2023, in the form of its code).

    With v the 2B views and j(i) the place of the other view of i's image, S(i) = -log( exp(v_i . v_j(i) / T) / sum_{k != i}
    exp(v_i . v_k / T) ); an image's value is the mean over its two views.

    Args:
        one_BD, other_BD: rows of unit length; row i of both is one image.
        temperature: T > 0.
        counted_B: bool; images that are not counted are nobody's rivals, and have value 0.

    Returns:
        float32 [B].
    """
    views = torch.cat([one_BD, other_BD]).float()
    num = len(one_BD)
    places = torch.arange(2 * num, device=views.device)
    rivals = counted_B.repeat(2)[None, :] & (places[:, None] != places[None, :])
    own = (places + num) % (2 * num)
    # Its own other view counts in any case, so that no row is without one.
    rivals = rivals | (places[None, :] == own[:, None])
    logits = (views @ views.T / temperature).masked_fill(~rivals, float("-inf"))
    losses = F.cross_entropy(logits, own, reduction="none")
    return counted_B * losses.view(2, num).mean(0)
