"""The interface for writing a program family, and the compiled family: parameters per picture, and nodes in order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from raydfkd.synthesis.procedural.shaders.expression import Colour, Expr, Point, in_order

NUM_SEEDS = 1 << 16


class Law(Enum):
    """How a parameter is drawn between its bounds."""

    UNIFORM = 0
    LOG_UNIFORM = 1
    INTEGER = 2


@dataclass(frozen=True)
class Parameter:
    """One number that every picture draws for itself; both bounds belong to an INTEGER's range."""

    low: float
    high: float
    law: Law = Law.UNIFORM


class Sketch:
    """Provides a family with pixel coordinates and random parameters while it is being defined."""

    def __init__(self) -> None:
        self.parameters: list[Parameter] = []
        self.point = Point(Expr("x"), Expr("y"))

    def uniform(self, low: float, high: float) -> Expr:
        return self._parameter(Parameter(low, high))

    def log_uniform(self, low: float, high: float) -> Expr:
        return self._parameter(Parameter(low, high, Law.LOG_UNIFORM))

    def integer(self, low: int, high: int) -> Expr:
        """low, low + 1, ..., high, equally often."""
        return self._parameter(Parameter(low, high, Law.INTEGER))

    def coin(self) -> Expr:
        """0 or 1."""
        return self.integer(0, 1)

    def angle(self) -> Expr:
        return self.uniform(0.0, 2 * math.pi)

    def seed(self) -> Expr:
        """Of a noise; the same place has unrelated noise under another seed."""
        return self.integer(0, NUM_SEEDS - 1)

    def _parameter(self, parameter: Parameter) -> Expr:
        self.parameters.append(parameter)
        return Expr("parameter", value=len(self.parameters) - 1)


@dataclass(frozen=True)
class Program:
    """A family, ready to be rendered.

    Attributes:
        nodes: each after those that it needs.
        args: indices into ``nodes``, of each node's arguments.
        outputs: indices of red, green and blue.
        last_use: the node after which each node is not needed any more (outputs: never, ``len(nodes)``).
    """

    name: str
    parameters: tuple[Parameter, ...]
    nodes: tuple[Expr, ...]
    args: tuple[tuple[int, ...], ...]
    outputs: tuple[int, int, int]
    last_use: tuple[int, ...]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Parameters [count, P] for as many pictures, float32 on the CPU, from a CPU generator."""
        low = torch.tensor([p.low for p in self.parameters])
        high = torch.tensor([p.high for p in self.parameters])
        unit = torch.rand(count, len(self.parameters), generator=generator)
        laws = torch.tensor([p.law.value for p in self.parameters])
        drawn = low + (high - low) * unit
        # Values not drawn log-uniformly are replaced below, so their logarithm is irrelevant.
        drawn_log = torch.exp(torch.log(low.clamp(min=1e-9)) * (1 - unit) + torch.log(high.clamp(min=1e-9)) * unit)
        drawn_integer = torch.minimum(torch.floor(low + (high - low + 1) * unit), high)
        drawn = torch.where(laws == Law.LOG_UNIFORM.value, drawn_log, drawn)
        return torch.where(laws == Law.INTEGER.value, drawn_integer, drawn)


Family = Callable[[Sketch], Colour]
"""A program family: writes a picture down with the sketch's coordinates and parameters."""


def compile_family(name: str, family: Family) -> Program:
    """The family's nodes in the order of their evaluation."""
    sketch = Sketch()
    colour = family(sketch)
    nodes = in_order(tuple(colour))
    index = {id(node): position for position, node in enumerate(nodes)}
    args = tuple(tuple(index[id(arg)] for arg in node.args) for node in nodes)
    last_use = list(range(len(nodes)))
    for position, needed in enumerate(args):
        for one in needed:
            last_use[one] = max(last_use[one], position)
    red, green, blue = (index[id(channel)] for channel in colour)
    for output in (red, green, blue):
        last_use[output] = len(nodes)
    return Program(name, tuple(sketch.parameters), tuple(nodes), args, (red, green, blue), tuple(last_use))
