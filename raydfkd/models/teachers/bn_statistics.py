"""The mean and variance of every BatchNorm layer's input, as the BatchNorm losses of model inversion need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from raydfkd.errors import TeacherError
from raydfkd.models.layer_capture import first_input
from raydfkd.models.teachers.batch_moments import batch_moments
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher

Moments = tuple[torch.Tensor, torch.Tensor]
"""Mean [C] and biased variance [C], float32."""


def batch_norm_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layers with a BatchNorm's running statistics, by dotted name, in the order of definition.

    Torch's own, frozen ones (torchvision, timm), and any with the buffers ``running_mean`` and ``running_var``; InstanceNorm's
    are statistics of single images. Of a ``FrozenTeacher``, those of its network that its forward pass calls.
    """
    network, executed = (model.model, model.executed) if isinstance(model, FrozenTeacher) else (model, None)
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(getattr(layer, "running_mean", None), torch.Tensor)
        and isinstance(getattr(layer, "running_var", None), torch.Tensor)
        and not isinstance(layer, _InstanceNorm | torch.jit.ScriptModule)
        and (executed is None or name in executed)
    }


class BatchNormStatistics:
    """Reads the statistics of a model's BatchNorm inputs, differentiably, while :meth:`capture` is active.

    ``batch`` and ``running`` are lists over the same layers in the same order. Hooks exist only inside ``capture``, so that
    a forward pass outside it has no overhead. For a layer called more than once in a pass the last call counts.

    Args:
        model: see :func:`batch_norm_layers`.
        required: whether there must be any; without, the lists may be empty.

    Raises:
        TeacherError: the model has no BatchNorm layer with running statistics.
    """

    def __init__(self, model: nn.Module, required: bool = True) -> None:
        layers = batch_norm_layers(model)
        if required and not layers:
            raise TeacherError(
                f"{type(model).__name__} has no BatchNorm layer with running statistics; use a method without a BN term"
            )
        self.names = list(layers)
        self._layers = list(layers.values())
        self._batch: list[Moments | None] = [None] * len(layers)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    @property
    def widths(self) -> list[int]:
        """Channels of each layer."""
        return [layer.running_mean.numel() for layer in self._layers]  # type: ignore[operator]

    @property
    def running(self) -> list[Moments]:
        """The layers' own running mean [C] and variance [C], detached, float32."""
        return [(layer.running_mean.detach().float(), layer.running_var.detach().float()) for layer in self._layers]  # type: ignore[operator]

    @property
    def batch(self) -> list[Moments]:
        """Mean [C] and biased variance [C] of each layer's input in the last captured forward pass."""
        found = [moments for moments in self._batch if moments is not None]
        if len(found) != len(self._batch):
            missing = [name for name, moments in zip(self.names, self._batch, strict=True) if moments is None]
            raise TeacherError(
                f"{len(missing)} BatchNorm layers were not reached by a captured forward pass, first {missing[0]!r}"
            )
        return found

    @contextmanager
    def capture(self) -> Iterator[BatchNormStatistics]:
        """Records the next forward pass; earlier statistics are dropped."""
        self.remove()
        for index, layer in enumerate(self._layers):
            self._handles.append(layer.register_forward_pre_hook(self._hook(index), with_kwargs=True))
        try:
            yield self
        finally:
            self._remove_hooks()

    def remove(self) -> None:
        """Removes the hooks and drops the last batch, which frees its graph."""
        self._remove_hooks()
        self._batch = [None] * len(self._layers)

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._batch[index] = batch_moments(first_input(args, kwargs))

        return record
