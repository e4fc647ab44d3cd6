"""Maps of the complex plane, and flows: grids and bricks bent without changing their corners, dipoles, streams."""

from __future__ import annotations

from raydfkd.synthesis.procedural.shaders import colours as c
from raydfkd.synthesis.procedural.shaders.coordinates import (
    complex_product,
    complex_quotient,
    complex_sine,
    inverted,
    log_polar,
    mobius,
    rotated,
    scaled,
    squared,
    tiled,
    view,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.expression import Colour, Expr, Point
from raydfkd.synthesis.procedural.shaders.fields import away_from, checks, cloud, points, stripes
from raydfkd.synthesis.procedural.shaders.functions import (
    TAU,
    absolute,
    angle_of,
    bell,
    clamp,
    cos,
    dot,
    exp,
    fract,
    lattice,
    length,
    log,
    maximum,
    minimum,
    sin,
    smoothstep,
    total,
    triangle,
    wave,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.orbits import bounded
from raydfkd.synthesis.procedural.shaders.shader_catalog import family
from raydfkd.synthesis.procedural.shaders.sketch import Sketch


def domain_colours(s: Sketch, z: Point) -> Colour:
    """A complex number as hue (its angle) and light and dark bands (its size)."""
    return c.hue(angle_of(z) / TAU + s.uniform(0, 1), s.uniform(0.4, 0.9), 0.5 + 0.5 * fract(log(length(z) + 1e-3)))


@family
def polynomial_by_its_roots(s: Sketch) -> Colour:
    z = view(s, 0.8, 1.6)
    product = Point(z.x * 0.0 + 1.0, z.x * 0.0)
    for root in points(s, 4, 1.0):
        product = complex_product(product, away_from(z, root))
    return domain_colours(s, product)


@family
def rational_function(s: Sketch) -> Colour:
    z = view(s, 0.8, 1.6)
    zero_a, zero_b, pole_a, pole_b = points(s, 4, 1.0)
    above = complex_product(away_from(z, zero_a), away_from(z, zero_b))
    below = complex_product(away_from(z, pole_a), away_from(z, pole_b))
    value = complex_quotient(above, below)
    return c.ramp(s, wave(angle_of(value) / TAU * s.integer(1, 4) + log(length(value) + 0.01) * 0.4), 4)


@family
def mobius_checks(s: Sketch) -> Colour:
    return c.blended(c.random_colour(s), c.random_colour(s), checks(scaled(bounded(mobius(s, s.point)), s.uniform(1.0, 3.0))))


@family
def mobius_rings(s: Sketch) -> Colour:
    z = bounded(mobius(s, view(s)))
    return c.bands(s, fract(log(length(z) + 0.01) * s.uniform(0.8, 2.0)), 4)


@family
def inside_out_tiles(s: Sketch) -> Colour:
    z = scaled(inverted(view(s, shift=0.4), s.uniform(0.6, 1.4)), s.uniform(1.5, 4.0))
    inside, cell = tiled(z)
    edge = 0.5 - maximum(absolute(inside.x), absolute(inside.y))
    return c.dimmed(c.ramp(s, lattice(cell, s.seed()), 4), smoothstep(0.0, 0.1, edge))


@family
def complex_sine_grid(s: Sketch) -> Colour:
    z = complex_sine(scaled(view(s), s.uniform(1.0, 2.2)))
    line = minimum(triangle(z.x * s.uniform(0.5, 1.5)), triangle(z.y * s.uniform(0.5, 1.5)))
    return c.layered(c.duotone(s, wave(angle_of(z) / TAU)), (smoothstep(0.25, 0.1, line), c.random_colour(s)))


@family
def squared_stripes(s: Sketch) -> Colour:
    z = squared(squared(view(s, 0.8, 1.4, 0.3)))
    return c.cosine_palette(s, stripes(rotated(z, s.angle()).x * s.uniform(0.6, 2.0), s.uniform(1.0, 5.0)))


@family
def spiral_tiles_of_pictures(s: Sketch) -> Colour:
    p = log_polar(view(s, shift=0.3))
    arms = s.integer(2, 5)
    q = Point(p.x * 0.8 + p.y * arms, p.y * arms * 2.0 - p.x * 0.5)
    inside, cell = tiled(q)
    petal = smoothstep(0.05, -0.05, length(inside) - 0.3 - 0.1 * cos(angle_of(inside) * 5.0))
    return c.layered(c.ramp(s, lattice(Point(cell.x, cell.x), s.seed()), 3), (petal, c.random_colour(s)))


@family
def dipole_lines(s: Sketch) -> Colour:
    first, second = points(s, 2, 0.7)
    turn = (angle_of(away_from(s.point, first)) - angle_of(away_from(s.point, second))) / TAU
    near = exp(-minimum(length(away_from(s.point, first)), length(away_from(s.point, second))) * 3.0)
    return c.screened(c.bands(s, fract(turn * s.integer(4, 10)), 3), c.tinted(near, c.light_colour(s)))


@family
def flow_around_vortices(s: Sketch) -> Colour:
    p = view(s)
    stream = total([log(length(away_from(p, q)) + 0.05) * s.uniform(-1, 1) for q in points(s, 4, 1.0)]) + p.y * s.uniform(
        -1.5, 1.5
    )
    return c.cosine_palette(s, wave(stream * s.uniform(1.0, 4.0)))


@family
def carried_along_by_a_flow(s: Sketch) -> Colour:
    p, pull = view(s), s.uniform(0.1, 0.35)
    phases = [s.angle() for _ in range(4)]
    for k in range(6):
        a, b = phases[k % 4], phases[(k + 1) % 4]
        p = Point(p.x + sin(p.y * 2.3 + a) * pull, p.y + cos(p.x * 1.9 + b) * pull)
    return c.ramp(s, 0.5 * cloud(scaled(p, 1.5), s.seed(), 2) + 0.5 * wave(p.x), 5)


@family
def joukowski_stream(s: Sketch) -> Colour:
    z = view(s, 1.0, 2.0, 0.2)
    inverse = complex_quotient(Point(z.x * 0.0 + s.uniform(0.1, 0.5), z.x * 0.0), z)
    flow = Point(z.x + inverse.x, z.y + inverse.y)
    body = smoothstep(0.05, -0.05, dot(z, z) - 0.3)
    line = bell(triangle(flow.y * s.uniform(2.0, 5.0)), 0.3)
    return c.layered(c.duotone(s, flow.x * 0.3 + 0.5), (line, c.light_colour(s)), (body, c.dark_colour(s)))


@family
def exponential_bricks(s: Sketch) -> Colour:
    z = scaled(view(s), 1.5)
    size = exp(z.x * s.uniform(0.5, 1.0))
    q = Point(size * cos(z.y * 1.5) * 1.5, size * sin(z.y * 1.5) * 1.5)
    shade: Expr = clamp(0.4 + 0.8 * triangle(q.x) * triangle(q.y + 0.5))
    return c.dimmed(c.spread_numbers(s, lattice(q, s.seed())), shade)
