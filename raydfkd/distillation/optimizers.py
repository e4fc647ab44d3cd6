"""The optimizer that settings describe."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from raydfkd.distillation.config import OptimizerConfig

SECOND_DECAY = 0.999
"""Of Adam's running mean of squared gradients."""


def build_optimizer(config: OptimizerConfig, weights: Iterable[nn.Parameter], fused: bool = False) -> torch.optim.Optimizer:
    """At the peak rate; ``schedule.learning_rate`` gives that of each step.

    Args:
        fused: one kernel for all weights, which takes a rate that is on the device: for a step that is one CUDA graph.
    """
    if config.kind == "adam":
        betas = (config.momentum, SECOND_DECAY)
        decay = config.weight_decay
        return torch.optim.Adam(weights, config.lr, betas, weight_decay=decay, fused=fused or None, capturable=fused)
    return torch.optim.SGD(
        weights,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
        fused=fused or None,
    )
