"""A state as a flat dict of plain numpy arrays, each part with its own name prefix. No pickles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

State = dict[str, np.ndarray]


def prefixed(prefix: str, state: Mapping[str, np.ndarray]) -> State:
    """``state`` under names that begin with ``prefix/``."""
    return {f"{prefix}/{name}": values for name, values in state.items()}


def part(prefix: str, state: Mapping[str, np.ndarray]) -> State:
    """The part of ``state`` that :func:`prefixed` put there, under its own names."""
    start = f"{prefix}/"
    return {name[len(start) :]: values for name, values in state.items() if name.startswith(start)}


def fill(target: np.ndarray, source: np.ndarray) -> None:
    """Copies ``source`` into ``target``, keeping the target's type.

    Raises:
        ValueError: their shapes differ.
    """
    if target.shape != source.shape:
        raise ValueError(f"an array has shape {source.shape} where {target.shape} is needed")
    target[...] = source
