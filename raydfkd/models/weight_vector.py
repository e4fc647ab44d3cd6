"""A network's state as one float32 vector, the form in which weights travel between processes.

The vector holds the parameters and then the floating-point buffers (BatchNorm's running statistics), each in the order of
``named_parameters()`` and ``named_buffers()``. Integer buffers (``num_batches_tracked``) are left out: nothing we compute
depends on them, since every BatchNorm here uses a fixed momentum.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn


def float_state(module: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters, then floating-point buffers (BatchNorm's running statistics), each in their order."""
    yield from module.parameters()
    for buffer in module.buffers():
        if buffer.is_floating_point():
            yield buffer


@torch.no_grad()
def flat_weights(module: nn.Module) -> np.ndarray:
    """Parameters and floating-point buffers of ``module`` as one float32 vector [P], a copy."""
    pieces = [tensor.detach().reshape(-1).float() for tensor in float_state(module)]
    if not pieces:
        return np.zeros(0, dtype=np.float32)
    return torch.cat(pieces).cpu().numpy()


@torch.no_grad()
def load_flat_weights(module: nn.Module, vector: np.ndarray) -> None:
    """Writes a vector made by :func:`flat_weights` into a module of the same architecture, in place.

    Raises:
        ValueError: the vector differs in length from the module's state.
    """
    tensors = list(float_state(module))
    expected = sum(tensor.numel() for tensor in tensors)
    if vector.shape != (expected,):
        raise ValueError(f"weight vector has shape {vector.shape}, this {type(module).__name__} needs ({expected},)")
    if not tensors:
        return
    # A copy, because vectors from an object store are read-only and torch warns about wrapping those.
    source = torch.from_numpy(np.array(vector, dtype=np.float32)).to(tensors[0].device, non_blocking=True)
    pieces = source.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)])
