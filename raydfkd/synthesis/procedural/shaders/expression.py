"""The language that pictures are described in: a tree of scalar expressions over a pixel's coordinates.

Every value is one number per pixel; points and colours are tuples of them. The tree says nothing of how it is evaluated:
``torch_renderer.py`` does it for a whole batch at once, ``glsl_source.py`` writes the same tree as a fragment shader. A node
that is used twice is evaluated once in both.
"""

from __future__ import annotations

from typing import NamedTuple


class Expr:
    """One node.

    Attributes:
        op: a name in ``operations.OPERATIONS``, or one of the leaves ``constant``, ``parameter``, ``x``, ``y``, or ``item``.
        args: the nodes it is computed from.
        value: of a ``constant``; the index of a ``parameter`` or ``item``.
    """

    __slots__ = ("args", "op", "value")

    def __init__(self, op: str, args: tuple[Expr, ...] = (), value: float = 0.0) -> None:
        self.op = op
        self.args = args
        self.value = value

    def __add__(self, other: Expr | float) -> Expr:
        return apply("add", self, other)

    def __radd__(self, other: float) -> Expr:
        return apply("add", other, self)

    def __sub__(self, other: Expr | float) -> Expr:
        return apply("subtract", self, other)

    def __rsub__(self, other: float) -> Expr:
        return apply("subtract", other, self)

    def __mul__(self, other: Expr | float) -> Expr:
        return apply("multiply", self, other)

    def __rmul__(self, other: float) -> Expr:
        return apply("multiply", other, self)

    def __truediv__(self, other: Expr | float) -> Expr:
        return apply("divide", self, other) if isinstance(other, Expr) else self * (1.0 / other)

    def __rtruediv__(self, other: float) -> Expr:
        return apply("divide", other, self)

    def __mod__(self, other: Expr | float) -> Expr:
        return apply("mod", self, other)

    def __pow__(self, other: Expr | float) -> Expr:
        return apply("power", self, other)

    def __neg__(self) -> Expr:
        return apply("negate", self)


class Point(NamedTuple):
    """A place in the picture: x to the right, y upwards, the shorter side from -1 to 1."""

    x: Expr
    y: Expr


class Colour(NamedTuple):
    """Red, green and blue, 1.0 being full; what lies outside [0,1] is clipped at the end."""

    red: Expr
    green: Expr
    blue: Expr


def constant(value: float) -> Expr:
    return Expr("constant", value=float(value))


def apply(op: str, *args: Expr | float) -> Expr:
    """A node of operation ``op``; plain numbers become constants."""
    return Expr(op, tuple(arg if isinstance(arg, Expr) else constant(arg) for arg in args))


def item(of: Expr, index: int) -> Expr:
    """One output of an operation that has several."""
    return Expr("item", (of,), index)


def in_order(outputs: tuple[Expr, ...]) -> list[Expr]:
    """Every node that ``outputs`` need, once, each after those that it needs itself."""
    ordered: list[Expr] = []
    done: set[int] = set()
    waiting = [(node, False) for node in reversed(outputs)]
    while waiting:
        node, expanded = waiting.pop()
        if id(node) in done:
            continue
        if expanded:
            done.add(id(node))
            ordered.append(node)
        else:
            waiting.append((node, True))
            waiting.extend((arg, False) for arg in reversed(node.args))
    return ordered
