"""Outlines as signed distances (negative inside), and how they are combined. The distances are Euclidean or a bound of it."""

from __future__ import annotations

import math

from raydfkd.synthesis.procedural.shaders.coordinates import polar, rotated
from raydfkd.synthesis.procedural.shaders.expression import Expr, Point
from raydfkd.synthesis.procedural.shaders.functions import (
    TAU,
    Number,
    absolute,
    clamp,
    cos,
    dot,
    fract,
    length,
    maximum,
    minimum,
    mix,
    smoothstep,
)  # fmt: skip

EDGE = 0.03
"""Width of a soft outline, in the picture's units."""


def circle(p: Point, radius: Number) -> Expr:
    return length(p) - radius


def box(p: Point, half_width: Number, half_height: Number) -> Expr:
    dx, dy = absolute(p.x) - half_width, absolute(p.y) - half_height
    outside = length(Point(maximum(dx, 0.0), maximum(dy, 0.0)))
    return outside + minimum(maximum(dx, dy), 0.0)


def diamond(p: Point, radius: Number) -> Expr:
    return (absolute(p.x) + absolute(p.y) - radius) * math.sqrt(0.5)


def segment(p: Point, a: Point, b: Point) -> Expr:
    """Distance to a line from a to b."""
    along = Point(b.x - a.x, b.y - a.y)
    q = Point(p.x - a.x, p.y - a.y)
    share = clamp(dot(q, along) / maximum(dot(along, along), 1e-4))
    return length(Point(q.x - along.x * share, q.y - along.y * share))


def polygon(p: Point, sides: Number, radius: Number) -> Expr:
    """A regular polygon; ``radius`` is its inner one."""
    distance, turn = polar(p)
    wedge = (fract(turn * sides) - 0.5) / sides
    return distance * cos(wedge * TAU) - radius


def star(p: Point, tips: Number, radius: Number, depth: Number) -> Expr:
    """A star with straight edges between its tips and its inner corners; depth 0: hardly a star, 1: thin tips."""
    distance, turn = polar(p)
    share = absolute(fract(turn * tips) * 2.0 - 1.0)
    return distance - (1.0 - share * depth) * radius


def flower(p: Point, petals: Number, radius: Number, depth: Number) -> Expr:
    """A circle whose radius goes up and down with the angle."""
    distance, turn = polar(p)
    return distance - (cos(turn * petals * TAU) * depth + 1.0) * radius


def cross(p: Point, reach: Number, thickness: Number) -> Expr:
    return union(box(p, reach, thickness), box(p, thickness, reach))


def heart(p: Point, size: Number) -> Expr:
    """From two turned ellipses-like arcs: a curve |x| against y."""
    x = absolute(p.x) / size
    y = p.y / size - (x**0.5) * 0.6
    return length(Point(x, y * 1.1)) - 1.0


def moon(p: Point, radius: Number, shift: Number) -> Expr:
    """A circle with another taken away from it."""
    return minus(circle(p, radius), circle(Point(p.x - shift, p.y), radius))


def drop(p: Point, radius: Number) -> Expr:
    """A round drop with a tip upwards."""
    narrowing = clamp(1.0 - p.y / (2.5 * radius), 0.05, 1.0)
    return length(Point(p.x / narrowing, minimum(p.y, 0.0) + maximum(p.y - 1.2 * radius, 0.0))) - radius


def gear(p: Point, teeth: Number, radius: Number, height: Number) -> Expr:
    """A wheel with teeth and a hole."""
    distance, turn = polar(p)
    tooth = smoothstep(-0.3, 0.3, cos(turn * teeth * TAU))
    return maximum(distance - radius - tooth * height, 0.35 * radius - distance)


def ring(distance: Expr, thickness: Number) -> Expr:
    """The outline itself, as a band."""
    return absolute(distance) - thickness


def union(*distances: Expr) -> Expr:
    return minimum(*distances)


def intersection(*distances: Expr) -> Expr:
    return maximum(*distances)


def minus(distance: Expr, taken: Expr) -> Expr:
    return maximum(distance, -taken)


def either(a: Expr, b: Expr) -> Expr:
    """Where exactly one of both is."""
    return maximum(minimum(a, b), -maximum(a, b))


def smooth_union(a: Expr, b: Expr, softness: Number) -> Expr:
    """The union with its corners filled in."""
    share = clamp(0.5 + (b - a) / softness * 0.5)
    return mix(b, a, share) - share * (1.0 - share) * softness


def filled(distance: Expr, edge: Number = EDGE) -> Expr:
    """1 inside, 0 outside, with an edge of that width."""
    return smoothstep(edge, -edge, distance)


def outline(distance: Expr, thickness: Number, edge: Number = EDGE) -> Expr:
    return filled(ring(distance, thickness), edge)


def glow(distance: Expr, strength: Number) -> Expr:
    """Bright at the outline, fading away from it, in [0,1]."""
    return clamp(strength / (absolute(distance) + 0.02))


def turned_box(p: Point, half_width: Number, half_height: Number, angle: Number) -> Expr:
    return box(rotated(p, angle), half_width, half_height)
