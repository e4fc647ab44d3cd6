"""Modules that are imported when they are first used, so that a file can hold torch code and settings that need no torch.

A method, an objective or a kind of images is one file: its settings are read wherever an experiment is checked, also in
processes that never run it, and its code needs torch. Such a file imports torch and the rooms that need it like this::

    if TYPE_CHECKING:
        import torch
        from raydfkd.losses import inversion
    else:
        torch, inversion = deferred("torch"), deferred("raydfkd.losses.inversion")

Names of a deferred module may be used inside functions and annotations, but not while the file itself is imported (in
decorators, base classes and default values).
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    """Stands for a module until one of its names is asked for, and forwards every name after that."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by tools that look at a module; no reason to import anything
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)


def deferred(name: str) -> Any:
    """The module of that dotted name, imported when one of its attributes is first used."""
    return _Deferred(name)
