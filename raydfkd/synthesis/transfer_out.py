"""Device tensors as arrays of the host, with one copy and one wait for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from raydfkd.deferred import deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")


def host_arrays(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """The tensors, all on one device, as contiguous arrays of the same shapes and types.

    On the CPU they share the tensors' memory. From another device each copy would be waited for by itself: their bytes
    travel as one tensor.
    """
    rows = [tensor.detach().contiguous(memory_format=torch.contiguous_format) for tensor in tensors]
    if all(row.device.type == "cpu" for row in rows):
        return [row.numpy() for row in rows]
    packed = torch.cat([row.reshape(-1).view(torch.uint8) for row in rows]).cpu()
    pieces = packed.split([row.numel() * row.element_size() for row in rows])
    # A copy each: a piece need not begin where its type asks for.
    return [piece.clone().view(row.dtype).view(row.shape).numpy() for piece, row in zip(pieces, rows, strict=True)]
