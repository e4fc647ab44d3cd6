"""Scalar fields over the plane, mostly in [0,1]: sums of noises, stripes, checks, rings, plasmas, trails of points."""

from __future__ import annotations

from collections.abc import Callable

from raydfkd.synthesis.procedural.shaders.coordinates import moved, rotated, scaled
from raydfkd.synthesis.procedural.shaders.expression import Expr, Point
from raydfkd.synthesis.procedural.shaders.functions import (
    TAU,
    Number,
    absolute,
    angle_of,
    clamp,
    cos,
    dot,
    floor,
    gradient_noise,
    length,
    less,
    maximum,
    minimum,
    select,
    sin,
    total,
    triangle,
    value_noise,
    wave,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.sketch import Sketch

OCTAVE_TURN = 0.65
"""Radians by which the octaves of a noise are turned against each other, so that their lattices do not line up."""


def octaves(noise: Callable[[Point, Expr], Expr], p: Point, seed: Expr, count: int, gain: Number = 0.5) -> Expr:
    """Noise at ``count`` scales, each half as large and ``gain`` times as strong as the one before; their mean."""
    parts: list[Expr] = []
    strength: Number = 1.0
    strengths: Number = 0.0
    for octave in range(count):
        parts.append(noise(p, seed + octave) * strength)
        strengths = strength + strengths
        strength = strength * gain
        p = moved(scaled(rotated(p, OCTAVE_TURN), 2.0), 5.3, 1.7)
    return total(parts) / strengths


def fbm(p: Point, seed: Expr, count: int = 4, gain: Number = 0.5) -> Expr:
    """Fractal noise about 0 (Perlin's sum of octaves)."""
    return octaves(gradient_noise, p, seed, count, gain)


def cloud(p: Point, seed: Expr, count: int = 4, gain: Number = 0.5) -> Expr:
    """Fractal noise in about [0,1]."""
    return clamp(fbm(p, seed, count, gain) * 0.9 + 0.5)


def value_cloud(p: Point, seed: Expr, count: int = 4, gain: Number = 0.5) -> Expr:
    """Blockier fractal noise in [0,1)."""
    return octaves(value_noise, p, seed, count, gain)


def turbulence(p: Point, seed: Expr, count: int = 4, gain: Number = 0.5) -> Expr:
    """Sum of the noise's absolute value: sharp valleys."""
    return clamp(octaves(lambda q, k: absolute(gradient_noise(q, k)), p, seed, count, gain) * 1.8)


def ridges(p: Point, seed: Expr, count: int = 4, gain: Number = 0.5) -> Expr:
    """Sharp crests where the noise crosses 0, in [0,1]."""

    def crest(q: Point, k: Expr) -> Expr:
        height = clamp(1.0 - absolute(gradient_noise(q, k)) * 1.4)
        return height * height

    return octaves(crest, p, seed, count, gain)


def stripes(x: Expr, sharpness: Number | None = None) -> Expr:
    """Light and dark along x with period 1; softly (None), or the harder the sharper."""
    soft = wave(x)
    return soft if sharpness is None else clamp((soft - 0.5) * sharpness + 0.5)


def checks(p: Point) -> Expr:
    """0 and 1 on alternate unit squares."""
    return (floor(p.x) + floor(p.y)) % 2.0


def rings(p: Point, frequency: Number, phase: Number = 0.0) -> Expr:
    """Soft concentric rings."""
    return wave(length(p) * frequency + phase)


def spiral(p: Point, arms: Number, tightness: Number, phase: Number = 0.0) -> Expr:
    """Soft Archimedean spiral arms; ``arms`` is a whole number."""
    return wave(length(p) * tightness + angle_of(p) / TAU * arms + phase)


def rays(p: Point, count: Number, phase: Number = 0.0) -> Expr:
    """Soft rays from the middle; ``count`` is a whole number."""
    return wave(angle_of(p) / TAU * count + phase)


def random_wave(s: Sketch, p: Point, slowest: float, fastest: float) -> Expr:
    """A sine in [-1,1] of random direction, frequency and phase."""
    return sin(rotated(p, s.angle()).x * s.log_uniform(slowest, fastest) + s.angle())


def plasma(s: Sketch, p: Point, waves: int = 4, slowest: float = 1.5, fastest: float = 8.0) -> Expr:
    """Mean of sines in random directions, about 0."""
    return total([random_wave(s, p, slowest, fastest) for _ in range(waves)]) / waves


def points(s: Sketch, count: int, spread: float = 1.0) -> list[Point]:
    """Random places, within ``spread`` of the middle along each axis."""
    return [Point(s.uniform(-spread, spread), s.uniform(-spread, spread)) for _ in range(count)]


def away_from(p: Point, centre: Point) -> Point:
    return Point(p.x - centre.x, p.y - centre.y)


def metaballs(s: Sketch, p: Point, count: int, spread: float = 1.0) -> Expr:
    """Sum of inverse squared distances to random points: about 1 on the outline of the merging drops."""
    parts = []
    for centre in points(s, count, spread):
        q = away_from(p, centre)
        parts.append(s.uniform(0.02, 0.15) / (dot(q, q) + 0.01))
    return total(parts)


def nearest_point(p: Point, centres: list[Point]) -> tuple[Expr, Expr]:
    """(distance to the nearest of some points; that point's number divided by their count)."""
    best = length(away_from(p, centres[0]))
    number: Expr = best * 0.0
    for position, centre in enumerate(centres[1:], 1):
        distance = length(away_from(p, centre))
        number = select(less(distance, best), position / len(centres), number)
        best = minimum(best, distance)
    return best, number


def quasicrystal(p: Point, directions: int, frequency: Number, phase: Number = 0.0) -> Expr:
    """Plane waves in evenly spread directions, in [0,1]: for 5 or 7 of them it never repeats."""
    angles = [TAU / 2 * k / directions for k in range(directions)]
    return total([wave(rotated(p, angle).x * frequency + phase) for angle in angles]) / directions


def weave(p: Point) -> tuple[Expr, Expr]:
    """Plain cloth, threads one unit wide: (which lies on top, 0 along x and 1 along y; how high, 0 at its edge to 1)."""
    over = checks(p)
    across = select(over, triangle(p.x), triangle(p.y))
    along = select(over, triangle(p.y), triangle(p.x))
    return over, clamp(across * 0.7 + along * 0.3)


def steps(x: Expr, count: Number) -> Expr:
    """Quantised to ``count`` levels."""
    return floor(x * count) / count


def between(x: Expr, low: Number, high: Number) -> Expr:
    """1 where low < x < high, otherwise 0."""
    return less(low, x) * less(x, high)


def slope(field: Callable[[Point], Expr], p: Point, reach: float = 0.02) -> tuple[Expr, Expr, Expr]:
    """(value, derivative along x, derivative along y) of a field, by differences."""
    here = field(p)
    return here, (field(moved(p, reach, 0.0)) - here) / reach, (field(moved(p, 0.0, reach)) - here) / reach


def ripple(p: Point, centre: Point, frequency: Number, phase: Number, reach: Number) -> Expr:
    """Waves about 0 that die away from a centre."""
    distance = length(away_from(p, centre))
    return sin(distance * frequency + phase) / (1.0 + distance * reach)


def lissajous_distance(s: Sketch, p: Point, samples: int = 24) -> Expr:
    """Distance to a Lissajous figure, sampled at points along it."""
    a, b, shift = s.integer(1, 4), s.integer(1, 5), s.angle()
    best: Expr | None = None
    for k in range(samples):
        t = TAU * k / samples
        q = Point(p.x - sin(a * t + shift) * 0.8, p.y - cos(b * t) * 0.8)
        distance = dot(q, q)
        best = distance if best is None else minimum(best, distance)
    assert best is not None
    return length(Point(best**0.5, best * 0.0))


def star_burst(p: Point, count: Number, sharpness: Number) -> Expr:
    """Thin bright rays, in [0,1], brightest in the middle."""
    ray = absolute(cos(angle_of(p) * count * 0.5)) ** sharpness
    return clamp(ray / maximum(length(p) * 3.0, 0.2))
