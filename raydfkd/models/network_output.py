"""A network's outputs for a distillation objective, and their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

Feature = Literal["maps", "embedding", "head"]
"""What can be read besides the logits."""


@dataclass(frozen=True)
class NetworkOutput:
    """A network's outputs for an objective; parts not requested are empty or None.

    Attributes:
        logits: [B,K].
        maps: stage outputs [B,C_i,H_i,W_i], the stem's first; the last one is what is pooled, after its activation.
        embedding: [B,d], the pooled feature that the head takes.
        head_weight: [K,d] of the final linear layer.
    """

    logits: Tensor
    maps: tuple[Tensor, ...] = ()
    embedding: Tensor | None = None
    head_weight: Tensor | None = None

    def detached(self) -> NetworkOutput:
        return NetworkOutput(
            self.logits.detach(),
            tuple(x.detach() for x in self.maps),
            None if self.embedding is None else self.embedding.detach(),
            None if self.head_weight is None else self.head_weight.detach(),
        )


@dataclass(frozen=True)
class FeatureShapes:
    """The shapes of a NetworkOutput without the batch axis, known before training.

    Attributes:
        maps: (C,H,W) of each.
        embedding: width of the head's input, None without a linear head.
    """

    maps: tuple[tuple[int, int, int], ...]
    embedding: int | None


def join_outputs(parts: Sequence[NetworkOutput]) -> NetworkOutput:
    """The output for a batch from those for its consecutive parts, from the same network."""
    if len(parts) == 1:
        return parts[0]
    embeddings = [part.embedding for part in parts if part.embedding is not None]
    return replace(
        parts[0],
        logits=torch.cat([part.logits for part in parts]),
        maps=tuple(torch.cat(maps) for maps in zip(*(part.maps for part in parts), strict=True)),
        embedding=torch.cat(embeddings) if embeddings else None,
    )


@runtime_checkable
class MapClassifier(Protocol):
    """A classifier that provides its maps; ``pool_and_classify(forward_maps(images)[-1])`` is its forward pass."""

    def forward_maps(self, images: Tensor) -> list[Tensor]: ...

    def pool_and_classify(self, last_map: Tensor) -> Tensor: ...
