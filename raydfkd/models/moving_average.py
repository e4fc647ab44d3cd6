"""The moving average of a network's weights over its updates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def update_average(average: Iterable[Tensor], current: Iterable[Tensor], limit: float, num_updates: int) -> None:
    """In place: average <- decay * average + (1 - decay) * current, tensor by tensor; an integer tensor is copied.

    decay = min(limit, (1 + n) / (10 + n)) grows with the updates n, so that the initial weights do not dominate it.

    Args:
        average, current: lists of tensors of the same length, order and shapes.
        limit: the decay after many updates, in [0,1); 0: the average is ``current``.
        num_updates: n, of ``current`` so far, this one included.
    """
    decay = min(limit, (1 + num_updates) / (10 + num_updates))
    averaged: list[Tensor] = []
    towards: list[Tensor] = []
    for mine, newest in zip(average, current, strict=True):
        if mine.is_floating_point():
            averaged.append(mine)
            towards.append(newest)
        else:
            mine.copy_(newest)
    torch._foreach_lerp_(averaged, towards, 1.0 - decay)
