"""Per-channel mean and variance of a batch, several times faster on a CPU than ``torch.var_mean`` and its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-5
"""Keeps the variance of a constant channel finite on its way through the inverse standard deviation."""


class _BatchMoments(torch.autograd.Function):
    """Forward through the vectorised batch-norm kernel, backward as the one fused multiply-add that it is.

    With n values a channel, d mean / dx = 1/n and d var / dx = 2 (x - mean) / n, so the gradient is a*x + b per channel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        # float32 scale and shift make the kernel return its statistics in float32 for a bfloat16 input.
        ones = torch.ones(x.shape[1], device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        _, mean, inverse_std = torch.native_batch_norm(x, ones, torch.zeros_like(ones), None, None, True, 0.0, EPSILON)
        variance = inverse_std.pow(-2).sub_(EPSILON).clamp_(min=0)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, mean_grad: Tensor, variance_grad: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        shape = (1, -1) + (1,) * (x.ndim - 2)
        scale = variance_grad * (2.0 / count)
        offset = mean_grad / count - scale * mean
        return torch.addcmul(offset.view(shape).to(x.dtype), x, scale.view(shape).to(x.dtype))


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over all but the channel dimension.

    Args:
        x: [B,C,...], bfloat16, float32 or float64.

    Returns:
        [C] and [C], differentiable in x, in float32 for a bfloat16 input.
    """
    return _BatchMoments.apply(x)
