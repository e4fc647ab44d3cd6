"""What a network's outputs are: logits, what a softmax, log-softmax or sigmoid makes of them, or one for two classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

OutputKind = Literal["logits", "probabilities", "log probabilities", "sigmoid", "one logit", "one probability"]

TOLERANCE = 2e-3
"""Of sums over classes: half precision adds up a thousand probabilities with an error of that size."""


def kind_of(outputs: Tensor) -> OutputKind:
    """What outputs [B,K] or [B,K,H,W] of some images are, one where they are [B] or [B,1].

    Only a sigmoid's look like what logits may be by chance.
    """
    values = outputs.detach().double()
    if values.ndim == 1 or values.shape[1] == 1:
        return "one probability" if bool(((values >= 0) & (values <= 1 + TOLERANCE)).all()) else "one logit"
    if bool(((values >= 0) & (values <= 1 + TOLERANCE)).all()):
        sums = values.sum(1)
        return "probabilities" if bool(((sums - 1).abs() <= TOLERANCE).all()) else "sigmoid"
    if bool((values <= TOLERANCE).all()) and bool((values.logsumexp(1).abs() <= TOLERANCE).all()):
        return "log probabilities"
    return "logits"


def give_logits_of(model: nn.Module, kind: OutputKind) -> None:
    """From now on ``model``, whose outputs are of that kind, gives logits of all its classes, as far as that is exact.

    - Probabilities: log softmax(z) = z - log sum exp z differs from the logits by one constant an image, which no softmax sees.
    - One logit z, of the second of two classes: (-z/2, z/2), whose softmax is (1 - sigmoid(z), sigmoid(z)).
    - One probability p: the same, with z = log(p / (1 - p)).

    Where a probability was too close to 0 or 1 for its type, the closest one that the type has stands in.
    """
    if kind in _UNDO:
        model.register_forward_hook(_UNDO[kind])


def _logarithms(model: nn.Module, images: Any, outputs: Tensor) -> Tensor:
    return outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()


def _of_one_logit(model: nn.Module, images: Any, outputs: Tensor) -> Tensor:
    half = outputs.reshape(len(outputs)) / 2
    return torch.stack([-half, half], 1)


def _of_one_probability(model: nn.Module, images: Any, outputs: Tensor) -> Tensor:
    return _of_one_logit(model, images, outputs.logit(torch.finfo(outputs.dtype).eps))


_UNDO: dict[OutputKind, Callable[[nn.Module, Any, Tensor], Tensor]] = {
    "probabilities": _logarithms,
    "one logit": _of_one_logit,
    "one probability": _of_one_probability,
}
