"""Reduction of losses to one value per sample: classes on dimension 1, the mean over all later axes.

So one formula serves the logits [B,K] of an image's class and the logits [B,K,H,W] of every pixel's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -1
"""The class of a position that does not count, such as a pixel of a mask that nobody has labelled."""


def mean_over_positions(values: Tensor, targets: Tensor | None = None) -> Tensor:
    """[B,...] to [B]: the mean over all positions of a sample. Values [B] without positions are unchanged.

    Args:
        targets: int64 of the shape of ``values``: those of ``IGNORED`` do not count; None: all do. A sample without any that
            counts has the mean 0.
    """
    if targets is None or values.ndim == 1:
        return values if values.ndim == 1 else values.flatten(1).mean(1)
    counted = (targets != IGNORED).flatten(1)
    return torch.where(counted, values.flatten(1), 0.0).sum(1) / counted.sum(1).clamp_min(1)


def label_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy to given classes, the mean over all positions of a batch that count: what networks learn from labels and
    masks by. A batch without any has the loss 0.

    Args:
        logits: [B,K] or [B,K,...]; computed in float32.
        targets: int64 [B] or [B,...]; positions of ``IGNORED`` do not count.
    """
    logits = logits.float()
    if targets.ndim > 1 and not bool((targets != IGNORED).any()):
        return 0 * logits.sum()
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing, ignore_index=IGNORED)


def class_histogram(classes: Tensor, num_classes: int) -> Tensor:
    """int64 [B,K]: how many positions of each class each sample of int64 [B,...] has."""
    firsts = num_classes * torch.arange(len(classes), device=classes.device)
    places = classes.reshape(len(classes), -1) + firsts[:, None] if len(classes) else classes.flatten()
    return torch.bincount(places.flatten(), minlength=len(classes) * num_classes).view(len(classes), num_classes)


def dominant_classes(classes: Tensor, num_classes: int) -> Tensor:
    """int64 [B]: the class of most positions of each sample. Classes [B] are unchanged."""
    return classes if classes.ndim == 1 else class_histogram(classes, num_classes).argmax(1)
