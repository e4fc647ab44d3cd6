"""Evaluation mode and numeric precision of networks."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


def supports_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 on ``device``: its hardware computes in it.

    oneDNN's own answer also counts x86 processors with AVX-512 alone, on which it emulates bfloat16 several times slower than
    float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: torch.device, enabled: bool) -> AbstractContextManager[Any]:
    """bfloat16 autocast if ``enabled`` and the device has it, otherwise float32."""
    if enabled and supports_bfloat16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


@contextmanager
def evaluating(network: object) -> Iterator[None]:
    """Puts the network in evaluation mode, and restores each layer's mode afterwards.

    Layer by layer, since a container's mode says nothing about its layers: an averaged student stays in eval mode in a new
    ``nn.Sequential``, which begins in training mode. A callable that is not a module has no mode and is unaffected.
    """
    if not isinstance(network, nn.Module):
        yield
        return
    modes = [(layer, layer.training) for layer in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode
