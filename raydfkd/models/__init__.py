"""Networks: classifiers, generators, the frozen teacher, and weights in and out of files. Importing it imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydfkd.models.weight_vector import flat_weights, load_flat_weights

__all__ = ["flat_weights", "load_flat_weights"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from raydfkd.models import weight_vector

        return getattr(weight_vector, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
