"""Stage outputs of a classifier, uniformly: what feature-based distillation reads, beside what ``forward`` gives.

Every classifier of the catalog has ``forward_maps(images) -> list of maps`` (the stem's, each stage's, the last one activated
and, but for ConvNet, ready for global average pooling) and ``pool_and_classify(last map) -> logits``; the two together are its
``forward``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import torch
from torch import nn


def chained_maps(stem: torch.Tensor, stages: Iterable[Callable[[torch.Tensor], torch.Tensor]]) -> list[torch.Tensor]:
    """The stem's map and, in order, what each stage makes of the map before it."""
    maps = [stem]
    for stage in stages:
        maps.append(stage(maps[-1]))
    return maps


def maps_at(positions: Collection[int], layers: Iterable[nn.Module], images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the layers at ``positions``, all ``layers`` being applied to ``images`` one after the other."""
    maps: list[torch.Tensor] = []
    x = images
    for position, layer in enumerate(layers):
        x = layer(x)
        if position in positions:
            maps.append(x)
    return maps
