"""What a student needs that several workers train together, each on its part of the batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from raydfkd.errors import ConfigError


def synchronize_batch_norm(network: nn.Module) -> None:
    """Lets the BatchNorm layers of ``network`` normalise by the batch of all workers, in place.

    Where there is one worker, or no process group, they go on as before. ``nn.SyncBatchNorm.convert_sync_batchnorm`` puts new
    layers in the place of the old ones, without the hooks by which feature maps are read; here the layers stay and change
    their class.

    Raises:
        ConfigError: a layer is of a class derived from BatchNorm, which does something of its own besides.
    """
    for name, layer in network.named_modules():
        if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            layer.__class__ = nn.SyncBatchNorm
            layer.process_group = None  # of all workers
        elif isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm):
            raise ConfigError(
                f"sync_batch_norm works on torch's own BatchNorm and the layer {name!r} is a {type(layer).__name__}: leave "
                "sync_batch_norm out, or choose another student"
            )


def without_reduction(learner: nn.Module) -> AbstractContextManager[Any]:
    """While a part of the batch goes forwards and backwards that is not the last: its gradients need not reach the other
    workers yet (``DistributedDataParallel.no_sync``), since those that add up are reduced with the last part's."""
    no_sync: Callable[[], AbstractContextManager[Any]] = getattr(learner, "no_sync", nullcontext)
    return no_sync()
