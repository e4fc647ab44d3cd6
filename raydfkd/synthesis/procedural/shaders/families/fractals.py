"""Iterated maps: escape times, orbit traps, Newton basins, and folded self-similar sets."""

from __future__ import annotations

import math

from raydfkd.synthesis.procedural.shaders import colours as c
from raydfkd.synthesis.procedural.shaders import shapes
from raydfkd.synthesis.procedural.shaders.coordinates import (
    complex_product,
    complex_quotient,
    complex_sine,
    folded,
    inverted,
    mirrored,
    moved,
    polar,
    rotated,
    scaled,
    squared,
    tiled,
    view,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.expression import Colour, Expr, Point
from raydfkd.synthesis.procedural.shaders.functions import (
    TAU,
    absolute,
    angle_of,
    clamp,
    cos,
    dot,
    exp,
    floor,
    fract,
    length,
    less,
    log,
    maximum,
    minimum,
    select,
    sin,
    total,
    wave,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.orbits import bounded, iterate, repeat
from raydfkd.synthesis.procedural.shaders.shader_catalog import family
from raydfkd.synthesis.procedural.shaders.sketch import Sketch

ITERATIONS = 18


def edge_of_the_set(s: Sketch) -> Point:
    """A number on the rim of the Mandelbrot set's main heart, where Julia sets are rich."""
    turn = s.angle()
    reach = s.uniform(1.0, 1.08)
    return Point((cos(turn) * 0.5 - cos(turn * 2.0) * 0.25) * reach, (sin(turn) * 0.5 - sin(turn * 2.0) * 0.25) * reach)


@family
def julia_set(s: Sketch) -> Colour:
    number = edge_of_the_set(s)
    orbit = iterate(view(s, 0.6, 1.3, 0.2), lambda z: moved(squared(z), number.x, number.y), ITERATIONS)
    return c.cosine_palette(s, orbit.share * s.uniform(1.0, 3.0))


@family
def julia_with_lit_inside(s: Sketch) -> Colour:
    number = edge_of_the_set(s)
    orbit = iterate(view(s, 0.5, 1.2, 0.2), lambda z: moved(squared(z), number.x, number.y), ITERATIONS)
    inside = c.ramp(s, (dot(orbit.last, orbit.last)) ** 0.4, 3)
    return c.blended(c.dark_to_light(s, orbit.share), inside, less(0.99, orbit.share))


@family
def mandelbrot_set(s: Sketch) -> Colour:
    rim = edge_of_the_set(s)
    close = s.log_uniform(0.15, 1.5)
    place = moved(scaled(rotated(s.point, s.angle()), close), rim.x, rim.y)
    orbit = iterate(place, lambda z: moved(squared(z), place.x, place.y), 22)
    return c.blended(c.cosine_palette(s, orbit.share * 2.0), c.dark_colour(s), less(0.99, orbit.share))


@family
def burning_ship(s: Sketch) -> Colour:
    place = moved(scaled(s.point, s.log_uniform(0.1, 1.2)), s.uniform(-1.8, -1.4), s.uniform(-0.2, 0.1))
    orbit = iterate(place, lambda z: moved(squared(mirrored(z)), place.x, place.y), 20)
    return c.fire(s, 1.0 - orbit.share)


@family
def tricorn(s: Sketch) -> Colour:
    place = view(s, 0.5, 1.6, 0.8)
    orbit = iterate(place, lambda z: moved(squared(Point(z.x, -z.y)), place.x, place.y), ITERATIONS)
    return c.rainbow(s, orbit.share * 2.0 + orbit.trapped)


@family
def cubic_julia(s: Sketch) -> Colour:
    a, b = s.uniform(0.35, 0.55), s.uniform(0.2, 0.6)
    orbit = iterate(view(s, 0.6, 1.3, 0.2), lambda z: moved(complex_product(squared(z), z), a, b), ITERATIONS)
    return c.bands(s, fract(orbit.share * 2.5), 6)


@family
def orbit_trapped_by_lines(s: Sketch) -> Colour:
    number, angle = edge_of_the_set(s), s.angle()

    def trap(z: Point) -> Expr:
        turned = rotated(z, angle)
        return minimum(absolute(turned.x), absolute(turned.y))

    orbit = iterate(view(s, 0.6, 1.4, 0.2), lambda z: moved(squared(z), number.x, number.y), 14, trap)
    return c.dark_to_light(s, exp(-orbit.trapped * s.uniform(4.0, 15.0)))


@family
def orbit_trapped_by_ring(s: Sketch) -> Colour:
    number, radius = edge_of_the_set(s), s.uniform(0.2, 0.8)
    step = 14
    orbit = iterate(
        view(s, 0.6, 1.4, 0.2), lambda z: moved(squared(z), number.x, number.y), step, lambda z: absolute(length(z) - radius)
    )
    return c.cosine_palette(s, wave(log(orbit.trapped + 0.002) * s.uniform(0.2, 0.6)))


@family
def newton_basins(s: Sketch) -> Colour:
    z, damping = view(s, 0.7, 1.6, 0.2), s.uniform(0.7, 1.3)
    for _ in range(8):  # towards a cube root of 1
        square = squared(z)
        cube = complex_product(square, z)
        move = complex_quotient(moved(cube, -1.0, 0.0), scaled(square, 3.0))
        z = bounded(Point(z.x - move.x * damping, z.y - move.y * damping))
    return c.dimmed(c.bands(s, fract(angle_of(z) / TAU + 0.17), 3), exp(-absolute(length(z) - 1.0) * 3.0))


@family
def newton_speed(s: Sketch) -> Colour:
    z, shift = view(s, 0.7, 1.8, 0.3), s.uniform(0.2, 1.2)
    speed: list[Expr] = []
    for _ in range(7):  # towards a root of z^4 + shift
        square = squared(z)
        move = complex_quotient(moved(squared(square), shift, 0.0), scaled(complex_product(square, z), 4.0))
        z = bounded(Point(z.x - move.x, z.y - move.y))
        speed.append(exp(-length(move) * 2.0))
    return c.cosine_palette(s, total(speed) / 4.0)


@family
def kali_set(s: Sketch) -> Colour:
    a, b = s.uniform(-1.0, -0.4), s.uniform(-1.0, -0.4)
    z, glow = view(s, 0.5, 1.2, 0.4), []
    for _ in range(9):
        z = bounded(moved(scaled(mirrored(z), 1.0 / maximum(dot(z, z), 0.02)), a, b))
        glow.append(exp(-length(z) * 3.0))
    return c.ramp(s, total(glow) * 0.5, 4)


@family
def sierpinski_carpet(s: Sketch) -> Colour:
    z, solid, depth = scaled(view(s, 0.8, 1.3, 0.3), 0.5), [], 4
    for level in range(depth):
        inside, _ = tiled(scaled(z, 3.0**level))
        solid.append(less(maximum(absolute(inside.x), absolute(inside.y)), 1 / 6) * (1.0 - level / (depth + 1)))
    return c.ramp(s, maximum(*solid), 5)


@family
def folded_triangle_gasket(s: Sketch) -> Colour:
    angle = s.uniform(0.9, 1.2)
    z = moved(view(s, 0.6, 1.2, 0.3), 0.0, 0.2)
    for _ in range(6):
        z = folded(folded(moved(scaled(z, 1.9), 0.0, 0.7), angle), math.pi - angle)
        z = moved(Point(absolute(z.x), z.y), -0.4, -0.5)
    return c.cosine_palette(s, shapes.box(z, 0.5, 0.5) * s.uniform(0.1, 0.6))


@family
def koch_snowflake_folds(s: Sketch) -> Colour:
    z, size = view(s, 0.8, 1.4, 0.2), 1.0
    z = Point(absolute(z.x), z.y)
    for _ in range(5):
        z = moved(folded(Point(absolute(z.x), z.y), s.uniform(2.3, 2.8)), 0.0, -0.3 * size)
        z = scaled(z, 1.6)
        z = moved(z, -0.35, 0.0)
    return c.ramp(s, wave(log(absolute(z.y) + 0.01) * s.uniform(0.3, 0.7)), 4)


@family
def inverted_discs(s: Sketch) -> Colour:
    z, growth = view(s, 0.8, 1.3, 0.3), []
    size = s.uniform(1.0, 1.4)
    for _ in range(7):
        z = Point(fract(z.x * 0.5 + 0.5) * 2.0 - 1.0, fract(z.y * 0.5 + 0.5) * 2.0 - 1.0)
        z = inverted(z, size)
        growth.append(exp(-dot(z, z)))
    return c.cosine_palette(s, total(growth) / 3.0)


@family
def box_folds(s: Sketch) -> Colour:
    start, factor = view(s, 1.0, 2.5, 0.3), s.uniform(-2.2, -1.4)

    def step(z: Point) -> Point:
        q = Point(clamp(z.x, -1.0, 1.0) * 2.0 - z.x, clamp(z.y, -1.0, 1.0) * 2.0 - z.y)
        pull = clamp(1.0 / maximum(dot(q, q), 0.05), 1.0, 4.0)
        return moved(scaled(q, pull * factor), start.x, start.y)

    orbit = iterate(start, step, 12)
    return c.ramp(s, orbit.share + 0.4 * wave(angle_of(orbit.last) / TAU * 2.0), 4)


@family
def turning_squares_tree(s: Sketch) -> Colour:
    z, angle, found = moved(view(s, 0.9, 1.4, 0.2), 0.0, 0.6), s.uniform(0.4, 0.9), c.duotone(s, s.point.y * 0.5 + 0.5)
    for level in range(7):
        box = shapes.box(z, 0.14, 0.28)
        found = c.layered(found, (shapes.filled(box, 0.04), c.ramp(s, s.point.x * 0.0 + level / 7, 2)))
        z = Point(absolute(z.x), z.y)
        z = scaled(rotated(moved(z, -0.05, -0.3), angle), 1.4)
    return found


@family
def phoenix_set(s: Sketch) -> Colour:
    a, b = s.uniform(0.3, 0.6), s.uniform(-0.6, -0.3)
    z, before = view(s, 0.6, 1.2, 0.2), Point(s.point.x * 0.0, s.point.x * 0.0)
    count = s.point.x * 0.0
    for _ in range(14):
        inside = less(dot(z, z), 16.0)
        new = bounded(Point(squared(z).x + a + before.x * b, squared(z).y + before.y * b))
        before = Point(select(inside, z.x, before.x), select(inside, z.y, before.y))
        z = Point(select(inside, new.x, z.x), select(inside, new.y, z.y))
        count = count + inside
    return c.rainbow(s, count / 14.0 + 0.1 * log(dot(z, z) + 0.1))


@family
def sine_julia(s: Sketch) -> Colour:
    factor = Point(s.uniform(0.8, 1.2), s.uniform(-0.5, 0.5))
    orbit = iterate(view(s, 1.5, 4.0, 0.5), lambda z: complex_product(factor, complex_sine(bounded(z, 6.0))), 10)
    return c.cosine_palette(s, orbit.share * 1.5)


@family
def cantor_bars(s: Sketch) -> Colour:
    p = view(s, 0.9, 1.3, 0.2)
    row = floor((1.0 - p.y) * 2.5)
    solid = p.x * 0.0 + 1.0
    for level in range(4):
        third = fract((p.x * 0.5 + 0.5) * 3.0**level)
        taken = less(absolute(third - 0.5), s.uniform(0.1, 0.2))
        solid = solid * (1.0 - taken * less(level - 0.5, row))
    return c.blended(c.random_colour(s), c.ramp(s, fract(row / 5.0), 4), solid)


@family
def binary_carpet(s: Sketch) -> Colour:
    p = scaled(moved(view(s, 0.9, 1.1, 0.0), 1.5, 1.5), s.uniform(6.0, 20.0))
    value = p.x * 0.0
    for bit in range(5):  # exclusive or of the coordinates, bit by bit
        differ = absolute(floor(p.x / 2.0**bit) % 2.0 - floor(p.y / 2.0**bit) % 2.0)
        value = value + differ * 2.0**bit
    return c.cosine_palette(s, value / 32.0)


@family
def folding_kaleidoscope_gasket(s: Sketch) -> Colour:
    turn, shift, growth = s.uniform(0.2, 1.2), s.uniform(0.3, 0.7), s.uniform(1.2, 1.6)
    steps = repeat(view(s, 0.7, 1.3, 0.3), lambda z: rotated(moved(scaled(mirrored(z), growth), -shift, -shift), turn), 8)
    nearest = minimum(*[absolute(z.x) / growth_at(level) for level, z in enumerate(steps)])
    return c.dimmed(c.ramp(s, fract(polar(steps[-1]).x * 0.3), 4), clamp(nearest * s.uniform(20.0, 60.0) + 0.15))


def growth_at(level: int) -> float:
    """By how much a line may have been magnified after so many steps."""
    return 1.4**level
