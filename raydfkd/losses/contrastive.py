"""CMI's contrastive loss between two views of each image. M rows: B of the current batch, then those of earlier batches."""

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
        local_MD, global_MD: rows of unit length; row i of both is one image.
        num_current: B, 1 to M.
        temperature: T > 0.
    """
    logits_MM = local_MD.float() @ global_MD.detach().float().T / temperature
    losses_M = F.cross_entropy(logits_MM, torch.arange(len(logits_MM), device=logits_MM.device), reduction="none")
    current = losses_M[:num_current].mean()
    return current if num_current == len(losses_M) else current + losses_M[num_current:].mean()
