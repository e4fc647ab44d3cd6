"""Iterated maps of the plane, kept from growing without bound: a point that leaves the disc of ``ESCAPE`` stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from raydfkd.synthesis.procedural.shaders.expression import Expr, Point
from raydfkd.synthesis.procedural.shaders.functions import Number, clamp, dot, less, log, maximum, minimum, select

ESCAPE = 16.0
"""Squared distance beyond which a point has escaped."""

Step = Callable[[Point], Point]
Trap = Callable[[Point], Expr]


class Orbit(NamedTuple):
    """Result of an iteration.

    Attributes:
        last: where the point stopped, or escaped to.
        share: iterations before it escaped, as a share of all, smoothed between the whole numbers; 1: it never did.
        trapped: least value of the trap along the way.
    """

    last: Point
    share: Expr
    trapped: Expr


def iterate(start: Point, step: Step, times: int, trap: Trap | None = None) -> Orbit:
    """``step`` applied again and again; ``trap``: a distance to watch (by default that from the middle, squared)."""
    watch = trap if trap is not None else lambda q: dot(q, q)
    z = start
    count: Expr = start.x * 0.0
    trapped = watch(z)
    for _ in range(times):
        inside = less(dot(z, z), ESCAPE)
        new = step(z)
        bounded = Point(clamp(new.x, -1e4, 1e4), clamp(new.y, -1e4, 1e4))
        z = Point(select(inside, bounded.x, z.x), select(inside, bounded.y, z.y))
        trapped = minimum(trapped, select(inside, watch(z), trapped))
        count = count + inside
    beyond = maximum(dot(z, z), ESCAPE)
    smooth = log(log(beyond) / log(ESCAPE)) * 1.44
    escaped = less(ESCAPE, dot(z, z))
    share = select(escaped, (count - smooth) / float(times), 1.0)
    return Orbit(z, clamp(share), trapped)


def repeat(start: Point, step: Step, times: int) -> list[Point]:
    """Every point of an iteration that cannot grow (a folding), the start first."""
    found = [start]
    for _ in range(times):
        found.append(step(found[-1]))
    return found


def bounded(p: Point, bound: Number = 50.0) -> Point:
    return Point(clamp(p.x, -bound, bound), clamp(p.y, -bound, bound))
