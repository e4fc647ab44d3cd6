"""Captures outputs and inputs of named layers with forward hooks, for networks that do not return them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raydfkd.errors import ConfigError, RaydfkdError, TeacherError
from raydfkd.registry import nearest

Role = Literal["teacher", "student"]
"""The name of a network in messages."""


class LayerCapture:
    """``capture(images)`` returns the network's output and the named layers' outputs or inputs in that pass.

    The hooks are registered from the start, so that a compiler sees them, and record only passes through this object.
    They are objects, not closures, so that a deep copy of the network together with this object has its own hooks. For a layer
    called more than once in a pass the last call counts.
    """

    def __init__(
        self, model: nn.Module, hooks: dict[str, _Hook], handles: list[RemovableHandle], role: Role, required: bool
    ) -> None:
        self.model = model
        self.role: Role = role
        self.required = required
        self._hooks = hooks
        self._handles = handles

    def __call__(self, images: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """The network's output, and the values in the requested order.

        Raises:
            TeacherError, ConfigError (of a student): a layer was not used in the pass.
        """
        hooks = list(self._hooks.values())
        for hook in hooks:
            hook.armed, hook.value = True, None
        try:
            output = self.model(images)
            values = tuple(hook.value for hook in hooks)
        finally:
            for hook in hooks:
                hook.armed, hook.value = False, None
        if self.required:
            for key, value in zip(self._hooks, values, strict=True):
                if value is None:
                    raise error_of(self.role)(f"the {self.role}'s layer {key!r} is not used in its forward pass; name another")
        return output, values

    def remove(self) -> None:
        """Removes the hooks; this object cannot be used afterwards."""
        for handle in self._handles:
            handle.remove()


class _Hook:
    """Records its layer's output or input while armed."""

    def __init__(self, name: str, order: list[str] | None) -> None:
        self.name = name
        self.order = order
        self.armed = False
        self.value: Any = None

    def __call__(self, layer: nn.Module, *seen: Any) -> None:
        if self.armed:
            self.value = self.kept(seen)
            if self.order is not None:
                if self.name in self.order:
                    self.order.remove(self.name)
                self.order.append(self.name)

    def kept(self, seen: tuple[Any, ...]) -> Any:
        return seen[-1]


class _InputHook(_Hook):
    def kept(self, seen: tuple[Any, ...]) -> Any:
        return first_input(*seen[:2])


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a layer was called with first, by position or by name."""
    return args[0] if args else next(iter(kwargs.values()), None)


def capture(
    model: nn.Module,
    layers: Sequence[str],
    *,
    inputs_of: Sequence[str] = (),
    role: Role = "student",
    order: list[str] | None = None,
    required: bool = True,
) -> LayerCapture:
    """Prepares to read the outputs of ``layers``, then the first inputs of the layers ``inputs_of``.

    Args:
        order: gets the names of ``layers`` in the order in which they finish.
        required: whether a layer that is unused in a pass is an error, or gives None.

    Raises:
        TeacherError, ConfigError (of a student): there is no such layer, or a name is repeated.
    """
    known = dict(model.named_modules())
    for name in (*layers, *inputs_of):
        if not name or name not in known:
            raise error_of(role)(
                f"the {role} has no layer {name!r} to read features of: {nearest(name, [n for n in known if n])}"
            )
    if len(set(layers)) < len(layers):
        raise error_of(role)(f"the {role}'s feature_layers {list(layers)} name a layer twice; each gives one map")
    hooks: dict[str, _Hook] = {name: _Hook(name, order) for name in layers}
    hooks |= {f"input of {name}": _InputHook(name, None) for name in inputs_of}
    handles = [known[hook.name].register_forward_hook(hook, with_kwargs=True) for hook in hooks.values()]
    return LayerCapture(model, hooks, handles, role, required)


def executed_layers(model: nn.Module, images: Tensor) -> tuple[Any, dict[str, Any]]:
    """The network's output, and by name the outputs of the layers that one pass calls, in the order in which they finish.

    What a program of its own executes (TorchScript) is no layer that can be seen.
    """
    names = [name for name, layer in model.named_modules() if name and not isinstance(layer, torch.jit.ScriptModule)]
    order: list[str] = []
    take = capture(model, names, order=order, required=False)
    try:
        output, values = take(images)
    finally:
        take.remove()
    outputs = dict(zip(names, values, strict=True))
    return output, {name: outputs[name] for name in order}


def error_of(role: Role) -> type[RaydfkdError]:
    """The error class for this network of the user's."""
    return TeacherError if role == "teacher" else ConfigError
