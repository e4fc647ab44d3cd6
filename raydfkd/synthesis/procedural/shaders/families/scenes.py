"""Compositions of several layers: horizons, skylines, woods, rain, lights, signs, an object on a ground, collages.

None draws an animal or a vehicle: a picture of a class would be data about the teacher's task, and these are to be without any.
"""

from __future__ import annotations

from raydfkd.synthesis.procedural.shaders import colours as c
from raydfkd.synthesis.procedural.shaders import shapes
from raydfkd.synthesis.procedural.shaders.coordinates import moved, noise_warped, rotated, scaled, stretched, tiled, view
from raydfkd.synthesis.procedural.shaders.expression import Colour, Expr, Point
from raydfkd.synthesis.procedural.shaders.families.noises import ground
from raydfkd.synthesis.procedural.shaders.fields import (
    away_from,
    checks,
    cloud,
    fbm,
    plasma,
    points,
    rings,
    turbulence,
    value_cloud,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.functions import (
    absolute,
    bell,
    cells,
    clamp,
    exp,
    floor,
    fract,
    lattice,
    length,
    less,
    maximum,
    select,
    sin,
    smoothstep,
    wave,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.shader_catalog import family
from raydfkd.synthesis.procedural.shaders.sketch import Sketch


def line_along(x: Expr, value: float) -> Point:
    """A line through a noise, for outlines that depend on x alone."""
    return Point(x, x * 0.0 + value)


@family
def rolling_hills(s: Sketch) -> Colour:
    found = c.duotone(s, s.point.y * 0.5 + 0.5)
    for row in range(4):
        top = 0.5 - row * 0.4 + fbm(line_along(s.point.x * s.uniform(0.8, 2.5), row * 7.3), s.seed(), 2) * 0.5
        hill = c.dimmed(c.random_colour(s), 1.0 - 0.3 * (top - s.point.y))
        found = c.layered(found, (shapes.filled(s.point.y - top), hill))
    return found


@family
def jagged_mountains(s: Sketch) -> Colour:
    found = c.ramp(s, s.point.y * 0.5 + 0.5, 3)
    for row in range(3):
        x = s.point.x * s.uniform(0.8, 2.0)
        top = 0.7 - row * 0.5 + fbm(line_along(x, row * 5.1), s.seed(), 5, 0.55) * 1.0
        snow = less(0.55 - row * 0.3, s.point.y + fbm(scaled(s.point, 5.0), s.seed(), 2) * 0.2)
        rock = c.dimmed(c.random_colour(s), 0.6 + 0.5 * cloud(scaled(s.point, 4.0), s.seed(), 3))
        found = c.layered(found, (shapes.filled(s.point.y - top), c.blended(rock, c.light_colour(s), snow)))
    return found


@family
def city_skyline(s: Sketch) -> Colour:
    found = c.duotone(s, s.point.y * 0.5 + 0.5)
    for row in range(3):
        p = Point(s.point.x * s.uniform(2.0, 5.0) + row * 3.3, s.point.y)
        column = floor(p.x)
        top = lattice(line_along(column, row), s.seed()) * 1.0 - 0.1 - row * 0.35
        window = less(0.35, fract(p.x * 4.0)) * less(0.4, fract(p.y * 9.0))
        lit = window * less(lattice(Point(p.x * 4.0, p.y * 9.0), s.seed()), 0.4)
        wall = c.blended(c.dark_colour(s), c.light_colour(s), lit * 0.9)
        found = c.layered(found, (shapes.filled(p.y - top, 0.01), wall))
    return found


@family
def forest_trunks(s: Sketch) -> Colour:
    found = c.duotone(s, cloud(scaled(s.point, 2.0), s.seed(), 3))
    for row in range(3):
        p = Point(s.point.x * (4.0 - row) + fbm(scaled(s.point, 1.0), s.seed(), 2) * 0.4, s.point.y)
        column = floor(p.x)
        width = 0.1 + 0.25 * lattice(line_along(column, row), s.seed())
        across = absolute(fract(p.x) - 0.5) / width
        bark = 0.5 + 0.7 * value_cloud(stretched(p, 12.0, 2.0), s.seed(), 2)
        found = c.layered(found, (smoothstep(1.05, 0.9, across), c.dimmed(c.random_colour(s), bark * (1.1 - 0.5 * across))))
    return found


@family
def sea_and_sun(s: Sketch) -> Colour:
    horizon, sun_x = s.uniform(-0.2, 0.3), s.uniform(-0.5, 0.5)
    sun = Point(s.point.x - sun_x, s.point.y - horizon - s.uniform(0.1, 0.5))
    sky = c.screened(c.ramp(s, s.point.y - horizon, 3), c.tinted(bell(length(sun), 0.35), c.light_colour(s)))
    below = maximum(horizon - s.point.y, 0.0)
    waves = value_cloud(Point(s.point.x * 3.0 / (below + 0.1), below * 40.0 / (below + 0.5)), s.seed(), 2)
    glitter = less(0.55, waves) * bell(s.point.x - sun_x, 0.2 + below * 0.5)
    sea = c.screened(c.duotone(s, waves), c.tinted(glitter, c.light_colour(s)))
    return c.blended(sky, sea, less(s.point.y, horizon))


@family
def ploughed_fields(s: Sketch) -> Colour:
    horizon = s.uniform(0.1, 0.6)
    depth = 1.0 / maximum(horizon - s.point.y, 0.03)
    x = (s.point.x + s.uniform(-0.5, 0.5)) * depth
    field = floor(x * 0.5)
    rows = wave(x * s.uniform(1.0, 4.0)) * exp(-depth * 0.1)
    land = c.dimmed(c.family_colours(s, lattice(line_along(field, 0.0), s.seed())), 0.6 + 0.5 * rows)
    return c.blended(c.duotone(s, s.point.y), land, less(s.point.y, horizon))


@family
def blurred_lights(s: Sketch) -> Colour:
    found = c.dark_colour(s)
    for centre in points(s, 9, 1.0):
        distance = length(away_from(s.point, centre))
        radius = s.uniform(0.1, 0.4)
        disc = smoothstep(radius, radius * 0.85, distance) * (0.4 + 0.4 * smoothstep(radius * 0.5, radius, distance))
        found = c.screened(found, c.tinted(disc, c.random_colour(s)))
    return found


@family
def rain_on_glass(s: Sketch) -> Colour:
    p = s.point
    for density in (2.0, 4.0):
        found = cells(scaled(p, density), s.seed(), 0.8)
        inside = smoothstep(0.35, 0.25, found.nearest)
        p = Point(p.x + found.way.x * inside * 1.2 / density, p.y + found.way.y * inside * 1.2 / density)
    blurred = c.ramp(s, cloud(scaled(p, s.uniform(0.8, 2.0)), s.seed(), 2), 4)
    return c.dimmed(blurred, 0.7 + 0.5 * wave(p.y))


@family
def falling_streaks(s: Sketch) -> Colour:
    p = rotated(s.point, s.uniform(-0.5, 0.5))
    found = c.duotone(s, s.point.y * 0.5 + 0.5)
    for density in (5.0, 9.0, 14.0):
        column = floor(p.x * density)
        y = p.y * s.uniform(0.6, 1.5) + lattice(line_along(column, density), s.seed()) * 9.0
        streak = smoothstep(0.6, 0.95, fract(y)) * bell(fract(p.x * density) - 0.5, 0.2)
        found = c.layered(found, (streak * 0.9, c.light_colour(s)))
    return found


@family
def blades_of_grass(s: Sketch) -> Colour:
    found = c.duotone(s, cloud(scaled(s.point, 1.5), s.seed(), 3))
    for row in range(4):
        density, lean = s.uniform(4.0, 8.0), s.uniform(-0.5, 0.5)
        bend = (s.point.y + 1.0) * (s.point.y + 1.0) * lean * 0.3
        x = (s.point.x - bend) * density + row * 0.37
        column = floor(x)
        tall = lattice(line_along(column, row), s.seed()) * 1.4 - 0.3 * row
        narrow = clamp((tall - s.point.y) * 0.6, 0.0, 0.45)
        blade = shapes.filled(absolute(fract(x) - 0.5) - narrow, 0.05) * less(s.point.y, tall)
        found = c.layered(found, (blade, c.ramp(s, lattice(line_along(column, row + 20.0), s.seed()), 3)))
    return found


@family
def lines_of_writing(s: Sketch) -> Colour:
    p = scaled(rotated(s.point, s.uniform(-0.3, 0.3)), s.uniform(2.0, 4.0))
    inside, cell = tiled(Point(p.x * 2.2, p.y * 1.3))
    word = less(lattice(scaled(cell, 1.0), s.seed()), 0.82)
    ink: Expr = s.point.x * 0.0
    for k in range(4):  # each sign is a few strokes of its own
        a, b = lattice(moved(cell, 17.0 * k, 0.0), s.seed()), lattice(moved(cell, 0.0, 23.0 * k), s.seed())
        start, end = Point(a * 0.6 - 0.3, b * 0.6 - 0.3), Point(fract(a * 7.0) * 0.6 - 0.3, fract(b * 7.0) * 0.6 - 0.3)
        ink = maximum(ink, shapes.filled(shapes.segment(inside, start, end) - 0.05, 0.06))
    paper = c.dimmed(c.light_colour(s), 0.8 + 0.2 * cloud(scaled(s.point, 3.0), s.seed(), 3))
    return c.layered(paper, (ink * word, c.dark_colour(s)))


@family
def lit_segments(s: Sketch) -> Colour:
    inside, cell = tiled(scaled(view(s, 0.9, 1.1, 0.4), s.uniform(0.8, 2.0)))
    q = Point(inside.x * 1.6 + inside.y * 0.15, inside.y * 1.2)
    found = c.dark_colour(s)
    bars = [
        (0.0, 0.45, 0.0),
        (0.0, 0.0, 0.0),
        (0.0, -0.45, 0.0),
        (0.25, 0.23, 1.0),
        (0.25, -0.23, 1.0),
        (-0.25, 0.23, 1.0),
        (-0.25, -0.23, 1.0),
    ]
    on_colour = c.light_colour(s)
    for k, (x, y, upright) in enumerate(bars):
        r = moved(q, -x, -y)
        bar = shapes.box(r, 0.04, 0.16) if upright else shapes.box(r, 0.18, 0.04)
        on = less(lattice(moved(cell, 13.0 * k, 5.0), s.seed()), 0.65)
        found = c.layered(found, (shapes.filled(bar, 0.04) * (0.12 + 0.88 * on), on_colour))
    return found


@family
def object_on_a_ground(s: Sketch) -> Colour:
    p = view(s, 0.9, 1.4, 0.3)
    outline = shapes.flower(noise_warped(p, 0.25, s.seed(), 2.0), s.integer(1, 4), s.uniform(0.5, 0.8), s.uniform(0.05, 0.3))
    behind = c.duotone(s, turbulence(ground(s, 0.8, 3.0), s.seed(), 3))
    body = c.ramp(s, cloud(ground(s, 1.0, 3.0), s.seed(), 3), 3)
    shadow = shapes.filled(moved_outline(outline), 0.2) * 0.5
    return c.layered(behind, (shadow, c.dark_colour(s)), (shapes.filled(outline), c.dimmed(body, clamp(0.5 - outline * 1.2))))


def moved_outline(outline: Expr) -> Expr:
    """A wider outline, for a soft shadow all around."""
    return outline - 0.08


@family
def four_textures(s: Sketch) -> Colour:
    p = moved(s.point, s.uniform(-0.5, 0.5), s.uniform(-0.5, 0.5))
    q = view(s)
    upper = c.blended(
        c.cosine_palette(s, plasma(s, q, 2)),
        c.blended(c.random_colour(s), c.random_colour(s), checks(scaled(q, 4.0))),
        less(p.x, 0.0),
    )
    lower = c.blended(
        c.duotone(s, cloud(scaled(q, 3.0), s.seed(), 3)), c.bands(s, fract(rings(q, 2.0) * 2.0), 3), less(p.x, 0.0)
    )
    return c.blended(upper, lower, less(p.y, 0.0))


@family
def soft_colour_spots(s: Sketch) -> Colour:
    found = c.random_colour(s)
    for centre in points(s, 6, 1.0):
        found = c.layered(found, (bell(length(away_from(s.point, centre)), s.uniform(0.3, 0.8)), c.random_colour(s)))
    return found


@family
def tree(s: Sketch) -> Colour:
    p = moved(scaled(s.point, s.uniform(1.0, 1.6)), s.uniform(-0.4, 0.4), 0.1)
    bend = sin(p.y * 2.0) * s.uniform(-0.1, 0.1)
    trunk = shapes.box(moved(Point(p.x + bend, p.y), 0.0, 0.5), s.uniform(0.05, 0.12), 0.5)
    crown = shapes.circle(noise_warped(moved(p, 0.0, -0.3), s.uniform(0.2, 0.4), s.seed(), 3.0), s.uniform(0.4, 0.65))
    leaves = c.dimmed(c.random_colour(s), 0.4 + 0.9 * value_cloud(scaled(p, 8.0), s.seed(), 2))
    scene = c.blended(
        c.duotone(s, s.point.y * 0.5 + 0.5), c.duotone(s, cloud(scaled(s.point, 5.0), s.seed(), 3)), less(p.y, -0.8)
    )
    return c.layered(scene, (shapes.filled(trunk), c.dark_colour(s)), (shapes.filled(crown), leaves))


@family
def house(s: Sketch) -> Colour:
    p = moved(scaled(s.point, s.uniform(1.0, 1.6)), s.uniform(-0.3, 0.3), 0.2)
    wide, tall = s.uniform(0.4, 0.7), s.uniform(0.3, 0.5)
    roof_height = s.uniform(0.25, 0.6)
    roof = maximum(absolute(p.x) / (wide * 1.2) + (p.y - tall) / roof_height - 1.0, tall - p.y)
    window = shapes.box(Point(absolute(p.x) - wide * 0.55, p.y - tall * 0.2), wide * 0.2, tall * 0.25)
    door = shapes.box(moved(p, 0.0, tall * 0.5), wide * 0.15, tall * 0.5)
    scene = c.blended(
        c.duotone(s, s.point.y * 0.5 + 0.5), c.duotone(s, value_cloud(scaled(s.point, 6.0), s.seed(), 2)), less(p.y, -tall)
    )
    found = c.layered(
        scene, (shapes.filled(shapes.box(p, wide, tall)), c.light_colour(s)), (shapes.filled(roof), c.random_colour(s))
    )
    return c.layered(found, (shapes.filled(window), c.dark_colour(s)), (shapes.filled(door), c.random_colour(s)))


@family
def window_view(s: Sketch) -> Colour:
    p = s.point
    panes = maximum(
        less(absolute(fract(p.x * s.uniform(0.6, 1.5) + 0.5) - 0.5), 0.06), less(absolute(p.y - s.uniform(-0.3, 0.3)), 0.08)
    )
    frame = maximum(panes, less(0.85, maximum(absolute(p.x), absolute(p.y))))
    outside = c.ramp(s, cloud(ground(s, 0.6, 2.0), s.seed(), 4), 4)
    dusk = c.blended(outside, c.duotone(s, p.x), select(less(p.y, -0.3), 0.7, 0.0))
    return c.layered(dusk, (frame, c.duotone(s, p.y * 0.3 + 0.5)))
