"""Evaluation mode and numeric precision of networks."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from raydfkd.errors import ConfigError, described


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


def prepare(device: torch.device) -> None:
    """Settings of this process for networks on ``device``: on a GPU, cuDNN tries its algorithms and keeps the fastest (shapes
    do not change), and float32 products use the tensor cores (TF32)."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")


def device_name(device: torch.device) -> str:
    """What a device is called in results."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def autocast(device: torch.device, enabled: bool) -> AbstractContextManager[Any]:
    """bfloat16 autocast if ``enabled`` and the device has it, otherwise float32."""
    if enabled and supports_bfloat16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def require_compiler(device: torch.device, setting: str) -> None:
    """Compiles something small, which fails at once where torch.compile lacks a C++ compiler, its headers or Triton.

    Raises:
        ConfigError: it fails; the message names the setting.
    """
    try:
        torch.compile(lambda x: (x + 1).sin(), dynamic=False)(torch.zeros(16, device=device))
    except Exception as error:
        raise ConfigError(
            f"{setting} is on, and torch.compile does not work here ({described(error)}): install a C++ compiler (g++) and "
            "Python's headers, or name a compiler in the variable CXX; or set it to false"
        ) from error


@contextmanager
def evaluating(network: object) -> Iterator[None]:
    """Puts the network in evaluation mode, and restores each layer's mode afterwards.

    Layer by layer, since a container's mode says nothing about its layers: an averaged student stays in eval mode in a new
    ``nn.Sequential``, which begins in training mode. A callable that is not a module has no mode and is unaffected.
    """
    if not isinstance(network, nn.Module):
        yield
        return
    modes = [(layer, layer.training) for layer in network.modules() if hasattr(layer, "training")]  # not frozen TorchScript
    network.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def in_float32(network: nn.Module) -> nn.Module:
    """The network, its weights and buffers of other precisions converted in place.

    Exact for float16 and bfloat16; a run computes in bfloat16 where it says so (:func:`autocast`).
    """
    tensors = [*network.parameters(), *network.buffers()]
    kinds = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return network if kinds <= {torch.float32} else network.float()
