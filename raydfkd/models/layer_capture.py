"""Outputs and inputs of named layers of a network that does not give them itself, taken with forward hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raydfkd.errors import ConfigError, RaydfkdError, TeacherError
from raydfkd.registry import nearest

Role = Literal["teacher", "student"]
"""What messages call a network."""


class LayerCapture:
    """``capture(images)`` gives the network's output and what the named layers gave or took in that pass.

    The hooks are there from the start, so that a compiler sees them, and keep nothing outside a pass made through this object.
    They are objects and no closures: a deep copy of whatever holds the network and this has hooks of its own. A layer called
    more than once in a pass counts with its last call.
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
        """The network's output, and the values in the order in which they were asked for.

        Raises:
            TeacherError, ConfigError (of a student): a layer took no part in the pass.
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
        """Takes the hooks off; this object is of no more use."""
        for handle in self._handles:
            handle.remove()


class _Hook:
    """Keeps what its layer gives, or takes, while armed."""

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
        return seen[1]


class _InputHook(_Hook):
    def kept(self, seen: tuple[Any, ...]) -> Any:
        return seen[0][0]


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
        required: whether a layer that takes no part in a pass is an error, or gives None.

    Raises:
        TeacherError, ConfigError (of a student): there is no such layer, or a name comes twice.
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
    handles = [known[hook.name].register_forward_hook(hook) for hook in hooks.values()]
    return LayerCapture(model, hooks, handles, role, required)


def error_of(role: Role) -> type[RaydfkdError]:
    """The kind of error that names a network of the user's."""
    return TeacherError if role == "teacher" else ConfigError
