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
    """The tensors as contiguous arrays of the same shapes and types.

    Those on the CPU share their memory with the arrays. From a device each copy would be waited for by itself: the bytes of
    all of them travel as one tensor.
    """
    rows = [tensor.detach().contiguous(memory_format=torch.contiguous_format) for tensor in tensors]
    leaving = [row for row in rows if row.device.type != "cpu"]
    if leaving:
        packed = torch.cat([row.reshape(-1).view(torch.uint8) for row in leaving]).cpu()
        pieces = iter(packed.split([row.numel() * row.element_size() for row in leaving]))
        # A copy each: a piece need not begin where its type asks for.
        rows = [row if row.device.type == "cpu" else next(pieces).clone().view(row.dtype).view(row.shape) for row in rows]
    return [row.numpy() for row in rows]
