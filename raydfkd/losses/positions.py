"""Reduction of losses to one value per sample: classes on dimension 1, the mean over all later axes.

So one formula serves the logits [B,K] of an image's class and the logits [B,K,H,W] of every pixel's.
"""

from __future__ import annotations

from torch import Tensor


def mean_over_positions(values: Tensor) -> Tensor:
    """[B,...] to [B]: the mean over all positions of a sample. Values [B] without positions are unchanged."""
    return values if values.ndim == 1 else values.flatten(1).mean(1)
