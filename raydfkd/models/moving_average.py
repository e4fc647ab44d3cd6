"""The moving average of a network's weights over its updates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def update_average(average: Iterable[Tensor], current: Iterable[Tensor], limit: float, num_updates: int) -> None:
    """In place: average <- decay * average + (1 - decay) * current, tensor by tensor; an integer tensor is copied.

    decay = min(limit, (1 + n) / (10 + n)) grows with the updates n, so that the initial weights do not dominate it.

    Args:
        average, current: lists of tensors of the same length, order and shapes.
        limit: the decay after many updates, in [0,1); 0: the average is ``current``.
        num_updates: n, of ``current`` so far, this one included.
    """
    move_average(average, current, newest_share(limit, num_updates))


def newest_share(limit: float, num_updates: int) -> float:
    """1 - decay of :func:`update_average`."""
    return 1.0 - min(limit, (1 + num_updates) / (10 + num_updates))


@torch.no_grad()
def move_average(average: Iterable[Tensor], current: Iterable[Tensor], share: float | Tensor) -> None:
    """In place: average <- average + share * (current - average), tensor by tensor; an integer tensor is copied.

    Args:
        share: a number, or a float32 scalar on the tensors' device, which a CUDA graph reads anew each time.
    """
    averaged: list[Tensor] = []
    towards: list[Tensor] = []
    for mine, newest in zip(average, current, strict=True):
        if mine.is_floating_point():
            averaged.append(mine)
            towards.append(newest)
        else:
            mine.copy_(newest)
    if isinstance(share, Tensor):
        torch._foreach_lerp_(averaged, towards, [share] * len(averaged))
    else:
        torch._foreach_lerp_(averaged, towards, share)
