"""Support for training a student on several workers, each with its part of the batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from raydfkd.errors import ConfigError


def synchronize_batch_norm(network: nn.Module) -> None:
    """Makes the BatchNorm layers of ``network`` normalise over the batch of all workers, in place.

    With one worker, or without a process group, they behave as before. ``nn.SyncBatchNorm.convert_sync_batchnorm`` replaces
    the layers and loses the hooks that read feature maps; here the layers stay and change their class.

    Raises:
        ConfigError: a layer is of a class derived from BatchNorm, which has behaviour of its own.
    """
    for name, layer in network.named_modules():
        if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            layer.__class__ = nn.SyncBatchNorm
            layer.process_group = None  # of all workers
        elif isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm):
            raise ConfigError(
                f"sync_batch_norm supports only torch's own BatchNorm; the layer {name!r} is a {type(layer).__name__}: leave "
                "sync_batch_norm out, or choose another student"
            )


def without_reduction(learner: nn.Module) -> AbstractContextManager[Any]:
    """Context for the forward and backward pass of any part of the batch but the last: its gradients need not be synchronised
    yet (``DistributedDataParallel.no_sync``), since the accumulated gradients are reduced with the last part's."""
    no_sync: Callable[[], AbstractContextManager[Any]] = getattr(learner, "no_sync", nullcontext)
    return no_sync()
