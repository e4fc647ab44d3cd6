"""Ways to move, fold, bend and repeat the plane before something is drawn on it."""

from __future__ import annotations

import math

from raydfkd.synthesis.procedural.shaders.expression import Expr, Point
from raydfkd.synthesis.procedural.shaders.functions import (
    TAU,
    Number,
    absolute,
    angle_of,
    cos,
    dot,
    exp,
    floor,
    fract,
    gradient_noise,
    length,
    less,
    log,
    maximum,
    minimum,
    select,
    sin,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.sketch import Sketch


def moved(p: Point, x: Number, y: Number) -> Point:
    return Point(p.x + x, p.y + y)


def scaled(p: Point, factor: Number) -> Point:
    return Point(p.x * factor, p.y * factor)


def stretched(p: Point, along_x: Number, along_y: Number) -> Point:
    return Point(p.x * along_x, p.y * along_y)


def rotated(p: Point, angle: Number) -> Point:
    c, s = cos(angle), sin(angle)
    return Point(c * p.x - s * p.y, s * p.x + c * p.y)


def sheared(p: Point, by: Number) -> Point:
    return Point(p.x + p.y * by, p.y)


def view(s: Sketch, closest: float = 0.6, farthest: float = 2.0, shift: float = 0.6) -> Point:
    """The plane seen from anywhere: turned, from nearer (below 1) or farther, and moved."""
    turned = rotated(s.point, s.angle())
    return moved(scaled(turned, s.log_uniform(closest, farthest)), s.uniform(-shift, shift), s.uniform(-shift, shift))


def polar(p: Point) -> Point:
    """x: distance from the middle; y: the angle in turns, -1/2 to 1/2."""
    return Point(length(p), angle_of(p) / TAU)


def log_polar(p: Point) -> Point:
    """As :func:`polar` with the logarithm of the distance: what repeats here, repeats in ever larger copies."""
    return Point(log(length(p) + 1e-3), angle_of(p) / TAU)


def inverted(p: Point, radius: Number = 1.0) -> Point:
    """Inside out through a circle."""
    return scaled(p, radius * radius / maximum(dot(p, p), 1e-2))


def swirled(p: Point, turns: Number, reach: Number) -> Point:
    """Turned most in the middle, and less the farther out (over ``reach``)."""
    return rotated(p, exp(-dot(p, p) / reach) * (turns * TAU))


def kaleidoscope(p: Point, folds: Number) -> Point:
    """A wedge of the plane, mirrored around the middle ``folds`` times."""
    radius, turn = polar(p)
    wedge = absolute(fract(turn * folds) - 0.5) / folds
    return Point(radius * cos(wedge * TAU), radius * sin(wedge * TAU))


def mirrored(p: Point) -> Point:
    """One quarter of the plane in all four."""
    return Point(absolute(p.x), absolute(p.y))


def folded(p: Point, angle: Number) -> Point:
    """The plane folded over a line through the middle."""
    c, s = cos(angle), sin(angle)
    beyond = minimum(p.x * c + p.y * s, 0.0) * 2.0
    return Point(p.x - beyond * c, p.y - beyond * s)


def tiled(p: Point) -> tuple[Point, Point]:
    """(place within its unit square, -1/2 to 1/2; the square's number)."""
    cell = Point(floor(p.x), floor(p.y))
    return Point(p.x - cell.x - 0.5, p.y - cell.y - 0.5), cell


def brick_tiled(p: Point, offset: Number = 0.5) -> tuple[Point, Point]:
    """As :func:`tiled`, each row shifted against the one below."""
    row = floor(p.y)
    return tiled(Point(p.x + row * offset, p.y))


def mirror_tiled(p: Point) -> Point:
    """A unit square repeated without seams: each copy is its neighbour's mirror image. In [0,1]."""
    return Point(absolute(fract(p.x * 0.5) * 2.0 - 1.0), absolute(fract(p.y * 0.5) * 2.0 - 1.0))


def hex_tiled(p: Point) -> tuple[Point, Point]:
    """(place within its hexagon; the hexagon's middle). Hexagons one unit wide, pointed upwards."""
    height = math.sqrt(3.0)

    def to_nearest(q: Point) -> Point:
        return Point(fract(q.x) - 0.5, (fract(q.y / height) - 0.5) * height)

    one = to_nearest(p)
    other = to_nearest(moved(p, -0.5, -height / 2))
    nearer = less(dot(one, one), dot(other, other))
    inside = Point(select(nearer, one.x, other.x), select(nearer, one.y, other.y))
    return inside, Point(p.x - inside.x, p.y - inside.y)


def wobbled(p: Point, amount: Number, frequency: Number, phase: Number = 0.0) -> Point:
    """Each coordinate moved by a sine of the other."""
    return Point(p.x + sin(p.y * frequency + phase) * amount, p.y + sin(p.x * frequency + phase) * amount)


def noise_warped(p: Point, amount: Number, seed: Expr, frequency: Number = 1.0) -> Point:
    """Moved by smooth noise."""
    q = scaled(p, frequency)
    return Point(p.x + gradient_noise(q, seed) * amount, p.y + gradient_noise(moved(q, 37.2, 11.9), seed) * amount)


def lens(p: Point, centre: Point, strength: Number, reach: Number) -> Point:
    """Magnified about a centre."""
    away = Point(p.x - centre.x, p.y - centre.y)
    factor = 1.0 - exp(-dot(away, away) / reach) * strength
    return Point(centre.x + away.x * factor, centre.y + away.y * factor)


def squared(p: Point) -> Point:
    """z -> z^2 in the complex plane."""
    return Point(p.x * p.x - p.y * p.y, p.x * p.y * 2.0)


def complex_product(a: Point, b: Point) -> Point:
    return Point(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x)


def complex_quotient(a: Point, b: Point) -> Point:
    size = maximum(dot(b, b), 1e-4)
    return Point((a.x * b.x + a.y * b.y) / size, (a.y * b.x - a.x * b.y) / size)


def complex_sine(p: Point) -> Point:
    grown, shrunk = exp(p.y), exp(-p.y)
    return Point(sin(p.x) * (grown + shrunk) * 0.5, cos(p.x) * (grown - shrunk) * 0.5)


def mobius(s: Sketch, p: Point) -> Point:
    """A random Moebius map of the complex plane."""
    a, b, c = (Point(s.uniform(-1.2, 1.2), s.uniform(-1.2, 1.2)) for _ in range(3))
    above = moved(complex_product(a, p), b.x, b.y)
    below = moved(complex_product(c, p), 1.0, 0.3)
    return complex_quotient(above, below)
