"""Finds what makes the host wait for a device, on a machine without one.

Tensors on torch's "meta" device stand for those on a GPU: they have shapes and no values. So an operation that would need
a value on the host is noticed, with whatever it would have brought replaced by zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")

_aten = torch.ops.aten
_OF_VALUES = {
    _aten.nonzero, _aten.masked_select, _aten._unique2, _aten.unique_consecutive, _aten.repeat_interleave, _aten.bincount,
}  # fmt: skip
"""Operations whose result's shape depends on values."""


class DeviceWaits(TorchDispatchMode):
    """While active, appends to ``found`` a line for each wait.

    These are: a value read on the host, a copy to the host, a copy from the host that is waited for (without
    ``non_blocking``), and results whose shape depends on values (``nonzero``, selection by a mask).
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation = func.overloadpacket
        there = [x for x in tree_leaves((args, kwargs)) if _there(x)]
        if operation in (_aten._to_copy, _aten.copy_):
            source, target = (args[1], args[0].device) if operation is _aten.copy_ else (args[0], kwargs.get("device"))
            leaves, arrives = _there(source) and target == torch.device("cpu"), not _there(source) and target == DEVICE
            if leaves:
                self.found.append("copy to the host")
                zeros = torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
                return args[0].copy_(zeros) if operation is _aten.copy_ else zeros
            blocking = not (kwargs.get("non_blocking") or (operation is _aten.copy_ and len(args) > 2 and args[2]))
            if arrives and blocking:
                self.found.append("copy from the host that is waited for")
        if not there:
            return func(*args, **kwargs)
        if operation in (_aten._local_scalar_dense, _aten.equal):
            self.found.append(str(func))
            return False if operation is _aten.equal or there[0].dtype == torch.bool else 0
        indexed_by_mask = operation in (_aten.index, _aten.index_put_, _aten.index_put) and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if operation in _OF_VALUES or indexed_by_mask:
            self.found.append(str(func))
            raise AssertionError(f"{func} has a result whose shape depends on values")
        if operation is _aten.batch_norm_stats:  # has no form for shapes alone
            channels = torch.empty(args[0].shape[1], device=DEVICE)
            return channels, channels.clone()
        return func(*args, **kwargs)


def _there(x: Any) -> bool:
    return isinstance(x, Tensor) and x.device == DEVICE
