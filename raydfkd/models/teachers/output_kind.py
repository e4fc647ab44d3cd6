"""What a network's outputs are: logits, or what a softmax, log-softmax or sigmoid at its end makes of them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

OutputKind = Literal["logits", "probabilities", "log probabilities", "sigmoid"]

TOLERANCE = 2e-3
"""Of sums over classes: half precision adds up a thousand probabilities with an error of that size."""


def kind_of(outputs: Tensor) -> OutputKind:
    """What outputs [B,K] or [B,K,H,W] of some images are. Only a sigmoid's look like what logits may be by chance."""
    values = outputs.detach().double()
    if bool(((values >= 0) & (values <= 1 + TOLERANCE)).all()):
        sums = values.sum(1)
        return "probabilities" if bool(((sums - 1).abs() <= TOLERANCE).all()) else "sigmoid"
    if bool((values <= TOLERANCE).all()) and bool((values.logsumexp(1).abs() <= TOLERANCE).all()):
        return "log probabilities"
    return "logits"


def take_logarithms(model: nn.Module) -> None:
    """From now on ``model`` gives the logarithms of its outputs, which are probabilities.

    log softmax(z) = z - log sum exp z: it differs from the logits by one constant an image, which no softmax sees. Where a
    probability was too small for its type, the smallest number of the type stands in.
    """
    model.register_forward_hook(_logarithms)


def _logarithms(model: nn.Module, images: Any, outputs: Tensor) -> Tensor:
    return outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()
