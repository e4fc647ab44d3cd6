"""Functions of expressions: the operations by name, and the everyday mathematics made of them."""

from __future__ import annotations

import math
from typing import NamedTuple

from raydfkd.synthesis.procedural.shaders.expression import Expr, Point, apply, constant, item

TAU = 2 * math.pi

Number = Expr | float


def absolute(x: Number) -> Expr:
    return apply("absolute", x)


def floor(x: Number) -> Expr:
    return apply("floor", x)


def fract(x: Number) -> Expr:
    """What is left above the next lower integer, in [0,1)."""
    return apply("fract", x)


def sign(x: Number) -> Expr:
    return apply("sign", x)


def sin(x: Number) -> Expr:
    return apply("sin", x)


def cos(x: Number) -> Expr:
    return apply("cos", x)


def tanh(x: Number) -> Expr:
    return apply("tanh", x)


def exp(x: Number) -> Expr:
    return apply("exp", x)


def log(x: Number) -> Expr:
    return apply("log", x)


def sqrt(x: Number) -> Expr:
    return apply("sqrt", x)


def arcsin(x: Number) -> Expr:
    return apply("arcsin", x)


def atan2(y: Number, x: Number) -> Expr:
    return apply("atan2", y, x)


def minimum(first: Number, *others: Number) -> Expr:
    for other in others:
        first = apply("minimum", first, other)
    assert isinstance(first, Expr)
    return first


def maximum(first: Number, *others: Number) -> Expr:
    for other in others:
        first = apply("maximum", first, other)
    assert isinstance(first, Expr)
    return first


def clamp(x: Number, low: Number = 0.0, high: Number = 1.0) -> Expr:
    return apply("clamp", x, low, high)


def mix(a: Number, b: Number, share: Number) -> Expr:
    """a where the share is 0, b where it is 1."""
    return apply("mix", a, b, share)


def smoothstep(low: Number, high: Number, x: Number) -> Expr:
    """0 below ``low``, 1 above ``high``, a smooth step between (or downwards, where ``high`` is the lower)."""
    return apply("smoothstep", low, high, x)


def less(a: Number, b: Number) -> Expr:
    """1 where a < b, otherwise 0."""
    return apply("less", a, b)


def select(condition: Number, a: Number, b: Number) -> Expr:
    """a where the condition is 1, b where it is 0."""
    return apply("select", condition, a, b)


def wave(x: Number) -> Expr:
    """A sine in [0,1] of period 1."""
    return 0.5 + 0.5 * sin(x * TAU)


def triangle(x: Number) -> Expr:
    """A triangle wave in [0,1] of period 1, 0 at the integers."""
    return absolute(fract(x + 0.5 if isinstance(x, Expr) else constant(x + 0.5)) * 2.0 - 1.0)


def bell(x: Number, width: Number) -> Expr:
    """1 at 0, falling off over ``width``."""
    scaled = apply("divide", x, width)
    return exp(-(scaled * scaled))


def total(values: list[Expr]) -> Expr:
    result = values[0]
    for value in values[1:]:
        result = result + value
    return result


def length(p: Point) -> Expr:
    return sqrt(p.x * p.x + p.y * p.y)


def angle_of(p: Point) -> Expr:
    return atan2(p.y, p.x)


def dot(a: Point, b: Point) -> Expr:
    return a.x * b.x + a.y * b.y


def lattice(p: Point, seed: Number) -> Expr:
    """A random number in [0,1) for each unit square."""
    return apply("lattice", p.x, p.y, seed)


def value_noise(p: Point, seed: Number) -> Expr:
    """Smooth noise in [0,1), a feature about a unit."""
    return apply("value_noise", p.x, p.y, seed)


def gradient_noise(p: Point, seed: Number) -> Expr:
    """Smooth noise about 0, mostly in [-1,1], a feature about a unit."""
    return apply("gradient_noise", p.x, p.y, seed)


class Cells(NamedTuple):
    """Worley noise at a place: see ``lattice_noise.cells``."""

    nearest: Expr
    second: Expr
    number: Expr
    way: Point


def cells(p: Point, seed: Number, jitter: Number = 1.0, metric: str = "euclidean") -> Cells:
    """Distances to random points, one to a unit square; metric: euclidean, manhattan or chebyshev."""
    node = apply(f"cells_{metric}", p.x, p.y, seed, jitter)
    return Cells(item(node, 0), item(node, 1), item(node, 2), Point(item(node, 3), item(node, 4)))
