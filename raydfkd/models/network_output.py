"""A network's outputs for a distillation objective, and their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from raydfkd.errors import ConfigError

Feature = Literal["maps", "embedding", "head", "gradients"]
"""What can be read besides the logits; gradients of a frozen network only, and with its maps."""


@dataclass(frozen=True)
class NetworkOutput:
    """A network's outputs for an objective; parts not requested are empty or None.

    Attributes:
        logits: [B,K], or [B,K,H,W] of each pixel.
        maps: stage outputs [B,C_i,H_i,W_i], the stem's first; the last one is what is pooled, after its activation.
        embedding: [B,d], the pooled feature that the head takes.
        head_weight: [K,d] of the final linear layer.
        gradients: for each of the maps float32 [B,C_i], the mean over pixels of the gradient of the predicted class's logit.
        perturbed: the student's output for the objective's perturbed view of the same images.
    """

    logits: Tensor
    maps: tuple[Tensor, ...] = ()
    embedding: Tensor | None = None
    head_weight: Tensor | None = None
    gradients: tuple[Tensor, ...] = ()
    perturbed: NetworkOutput | None = None

    def detached(self) -> NetworkOutput:
        return NetworkOutput(
            self.logits.detach(),
            tuple(x.detach() for x in self.maps),
            None if self.embedding is None else self.embedding.detach(),
            None if self.head_weight is None else self.head_weight.detach(),
            gradients=tuple(x.detach() for x in self.gradients),
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
        gradients=tuple(torch.cat(each) for each in zip(*(part.gradients for part in parts), strict=True)),
        embedding=torch.cat(embeddings) if embeddings else None,
    )


@runtime_checkable
class MapClassifier(Protocol):
    """A classifier that provides its maps; ``pool_and_classify(forward_maps(images)[-1])`` is its forward pass."""

    def forward_maps(self, images: Tensor) -> list[Tensor]: ...

    def pool_and_classify(self, last_map: Tensor) -> Tensor: ...


def give_logits(model: nn.Module, output: Any, num_classes: int) -> Any:
    """Makes ``model``, which gave ``output``, give the logits in it alone from now on; returns them.

    They are its ``logits``, or its ``out``, as torchvision's segmentation networks call them, or else its only tensor
    [B,K,...]; [B,K] of [B,K,1,1], as convolutions give. Unchanged where it is a tensor of another form, or where that cannot be
    told.
    """
    key = None if isinstance(output, Tensor) else _logits_key(_parts(output), num_classes)
    if key is not None:
        model.register_forward_hook(_Part(key))
        output = _parts(output)[key]
    if isinstance(output, Tensor) and output.ndim > 2 and output[0, 0].numel() == 1:
        model.register_forward_hook(_without_positions)
        output = output.flatten(1)
    return output


def output_described(output: Any) -> str:
    """A network's output in a message: its shape, or what it is made of."""
    if isinstance(output, Tensor):
        kind = "" if output.is_floating_point() else f" of {str(output.dtype).removeprefix('torch.')}"
        return f"{list(output.shape)}{kind}"
    shapes = [f"{key} {list(part.shape)}" for key, part in _parts(output).items() if isinstance(part, Tensor)]
    return f"a {type(output).__name__}" + (f" with the tensors {', '.join(shapes)}" if shapes else "")


class _Part:
    """Hook that replaces a network's output by one part of it; an object and not a closure, to be copied and pickled."""

    def __init__(self, key: str | int) -> None:
        self.key = key

    def __call__(self, model: nn.Module, images: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return output
        parts = _parts(output)
        if self.key not in parts:
            raise ConfigError(
                f"{type(model).__name__} gives {output_described(output)}, and its logits were in {self.key!r} when it was "
                "tried: let it always give the logits alone"
            )
        return parts[self.key]


def _without_positions(model: nn.Module, images: Any, output: Any) -> Any:
    return output.flatten(1) if isinstance(output, Tensor) else output


def _parts(output: Any) -> dict[Any, Any]:
    """A network's output taken apart: a mapping's items, a tuple's by their names or numbers, an object's attributes."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple | list):
        names = getattr(output, "_fields", range(len(output)))
        return dict(zip(names, output, strict=True))
    return dict(getattr(output, "__dict__", {}))


def _logits_key(parts: dict[Any, Any], num_classes: int) -> Any:
    for name in ("logits", "out"):
        if isinstance(parts.get(name), Tensor):
            return name
    keys = [key for key, part in parts.items() if isinstance(part, Tensor) and part.ndim > 1 and part.shape[1] == num_classes]
    return keys[0] if len(keys) == 1 else None
