"""The mean and variance of every BatchNorm layer's input, as the BatchNorm losses of model inversion need them."""

from __future__ import annotations

from collections.abc import Iterator
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

    ``batch`` and ``running`` are lists over the same layers in the same order. The hooks are registered once and read
    nothing outside ``capture``. For a layer called more than once in a pass the last call counts.

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
        self._hooks = [_MomentsHook() for _ in layers]
        self._handles = [
            layer.register_forward_pre_hook(hook, with_kwargs=True)
            for layer, hook in zip(self._layers, self._hooks, strict=True)
        ]

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
        found = [hook.moments for hook in self._hooks if hook.moments is not None]
        if len(found) != len(self._hooks):
            missing = [name for name, hook in zip(self.names, self._hooks, strict=True) if hook.moments is None]
            raise TeacherError(
                f"{len(missing)} BatchNorm layers were not reached by a captured forward pass, first {missing[0]!r}"
            )
        return found

    @contextmanager
    def capture(self) -> Iterator[BatchNormStatistics]:
        """Records the next forward pass; earlier statistics are dropped."""
        for hook in self._hooks:
            hook.armed, hook.moments = True, None
        try:
            yield self
        finally:
            for hook in self._hooks:
                hook.armed = False

    def remove(self) -> None:
        """Removes the hooks and drops the last batch, which frees its graph; this object reads nothing afterwards."""
        for handle in self._handles:
            handle.remove()
        for hook in self._hooks:
            hook.moments = None


class _MomentsHook:
    """Reads its layer's input while armed. An object and not a closure, so that a copy of the network has hooks of its own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _MomentsHook:
        """Without the moments, whose graph cannot be copied."""
        return _MomentsHook()

    def __init__(self) -> None:
        self.armed = False
        self.moments: Moments | None = None

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.armed:
            self.moments = batch_moments(first_input(args, kwargs))
