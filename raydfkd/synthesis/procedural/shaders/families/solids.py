"""Things with depth: balls, boxes, rings, floors, cloth, light and shadow. Solved directly, or by marching along the ray."""

from __future__ import annotations

from collections.abc import Callable

from raydfkd.synthesis.procedural.shaders import colours as c
from raydfkd.synthesis.procedural.shaders import shapes
from raydfkd.synthesis.procedural.shaders.coordinates import moved, noise_warped, polar, rotated, scaled, stretched, tiled, view
from raydfkd.synthesis.procedural.shaders.expression import Colour, Expr, Point
from raydfkd.synthesis.procedural.shaders.fields import away_from, checks, cloud, fbm, points, ridges, slope, stripes
from raydfkd.synthesis.procedural.shaders.functions import (
    TAU,
    absolute,
    arcsin,
    atan2,
    bell,
    clamp,
    cos,
    dot,
    exp,
    floor,
    fract,
    lattice,
    length,
    less,
    maximum,
    minimum,
    select,
    sin,
    smoothstep,
    sqrt,
    triangle,
    wave,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.shader_catalog import family
from raydfkd.synthesis.procedural.shaders.sketch import Sketch

Solid = Callable[[Expr, Expr, Expr], Expr]
"""A signed distance in space."""


def ball(p: Point, radius: Expr | float) -> tuple[Expr, Expr]:
    """(1 inside its outline; height of its surface above the picture, in radii)."""
    share = dot(p, p) / (radius * radius)
    return smoothstep(1.0, 0.94, share), sqrt(1.0 - share)


def lit_ball(s: Sketch, p: Point, radius: Expr | float, colour: Colour) -> tuple[Expr, Colour]:
    inside, height = ball(p, radius)
    steep = 1.0 / maximum(height, 0.25)
    return inside, c.shaded(s, colour, -p.x / radius * steep, -p.y / radius * steep, 0.8)


def march(s: Sketch, solid: Solid, steps: int = 14, distance: float = 3.0) -> tuple[Expr, Expr, Expr, Expr]:
    """(1 where the ray meets the solid; brightness there; its height above the middle; how deep). Seen from ``distance``."""
    depth: Expr = s.point.x * 0.0 + (distance - 1.8)

    def place(t: Expr) -> tuple[Expr, Expr, Expr]:
        spread = t * 0.45
        return s.point.x * spread, s.point.y * spread, t - distance

    gap: Expr = depth
    for _ in range(steps):
        gap = solid(*place(depth))
        depth = minimum(depth + gap * 0.9, distance + 3.0)
    x, y, z = place(depth)
    reach = 0.03
    here = solid(x, y, z)
    along = [solid(x + reach, y, z) - here, solid(x, y + reach, z) - here, solid(x, y, z + reach) - here]
    size = sqrt(along[0] * along[0] + along[1] * along[1] + along[2] * along[2]) + 1e-4
    angle = s.angle()
    light = (along[0] * cos(angle) * 0.6 + along[1] * 0.5 + along[1] * sin(angle) * 0.3 - along[2] * 0.6) / size
    met = smoothstep(0.12, 0.02, gap)
    return met, clamp(light * 0.6 + 0.4), y, depth


def spun(s: Sketch, x: Expr, y: Expr, z: Expr, angles: tuple[Expr, Expr]) -> tuple[Expr, Expr, Expr]:
    """Turned about two axes."""
    first = rotated(Point(x, z), angles[0])
    second = rotated(Point(y, first.y), angles[1])
    return first.x, second.x, second.y


@family
def shiny_ball(s: Sketch) -> Colour:
    p = view(s, 0.9, 1.5, 0.3)
    inside, colour = lit_ball(s, p, s.uniform(0.5, 0.9), c.random_colour(s))
    shadow = bell(length(stretched(moved(p, -0.2, 0.8), 1.0, 3.0)), 0.7) * 0.6
    return c.layered(c.duotone(s, s.point.y * 0.5 + 0.5), (shadow, c.dark_colour(s)), (inside, colour))


@family
def heap_of_balls(s: Sketch) -> Colour:
    found = c.duotone(s, cloud(scaled(s.point, 1.5), s.seed(), 2))
    for centre in points(s, 6, 0.9):
        found = c.layered(found, lit_ball(s, away_from(s.point, centre), s.uniform(0.15, 0.5), c.random_colour(s)))
    return found


@family
def rows_of_balls(s: Sketch) -> Colour:
    inside, cell = tiled(scaled(view(s), s.uniform(1.2, 3.5)))
    coverage, colour = lit_ball(s, inside, 0.45, c.family_colours(s, lattice(cell, s.seed())))
    return c.layered(c.random_colour(s), (coverage, colour))


@family
def striped_planet(s: Sketch) -> Colour:
    p = view(s, 0.9, 1.5, 0.2)
    inside, height = ball(p, 0.8)
    turned = rotated(p, s.angle())
    latitude = arcsin(turned.y / 0.8) * s.uniform(1.0, 3.0)
    bands = latitude + fbm(Point(turned.x / maximum(height, 0.3), turned.y * 3.0), s.seed(), 3) * s.uniform(0.1, 0.5)
    light = clamp((p.x * 0.6 + p.y * 0.4 + height * 0.8) * 1.1)
    space = c.grey(bell(lattice(scaled(s.point, 14.0), s.seed()) - 0.5, 0.03))
    return c.layered(space, (inside, c.dimmed(c.cosine_palette(s, bands), light)))


@family
def ringed_planet(s: Sketch) -> Colour:
    p = view(s, 1.1, 1.6, 0.2)
    radius = length(stretched(p, 1.0, s.uniform(2.5, 5.0)))
    ring = less(absolute(radius - 1.0), s.uniform(0.15, 0.35)) * (0.4 + 0.6 * stripes(radius * 8.0))
    inside, colour = lit_ball(s, p, 0.6, c.duotone(s, wave(p.y * 2.0)))
    behind = ring * less(0.0, p.y)
    found = c.layered(c.dark_colour(s), (behind, c.light_colour(s)), (inside, colour))
    return c.layered(found, (ring * less(p.y, 0.0), c.light_colour(s)))


@family
def floor_and_sky(s: Sketch) -> Colour:
    p = rotated(s.point, s.uniform(-0.4, 0.4))
    horizon = s.uniform(-0.3, 0.5)
    below = horizon - p.y
    depth = 1.0 / maximum(below, 0.02)
    tiles = checks(rotated(Point(p.x * depth, depth), s.angle()))
    ground = c.blended(c.random_colour(s), c.random_colour(s), mix_far(tiles, depth))
    return c.blended(c.duotone(s, p.y - horizon), ground, less(0.0, below))


def mix_far(value: Expr, depth: Expr) -> Expr:
    """Fades to grey with the distance, where the pattern is finer than pixels."""
    near = exp(-depth * 0.12)
    return value * near + 0.5 * (1.0 - near)


@family
def ball_on_a_floor(s: Sketch) -> Colour:
    horizon, radius = s.uniform(0.0, 0.5), s.uniform(0.3, 0.6)
    below = horizon - s.point.y
    depth = 1.0 / maximum(below, 0.03)
    planks = stripes(s.point.x * depth * s.uniform(1.0, 3.0), 5.0)
    ground = c.dimmed(c.duotone(s, mix_far(planks, depth)), 0.7)
    scene = c.blended(c.duotone(s, s.point.y), ground, less(0.0, below))
    p = moved(s.point, s.uniform(-0.5, 0.5), s.uniform(0.0, 0.4))
    shadow = bell(length(stretched(moved(p, -0.1, radius), 1.0, 4.0)), radius) * 0.7
    return c.layered(scene, (shadow, c.dark_colour(s)), lit_ball(s, p, radius, c.random_colour(s)))


@family
def marched_ring(s: Sketch) -> Colour:
    angles, thick = (s.angle(), s.angle()), s.uniform(0.12, 0.3)

    def solid(x: Expr, y: Expr, z: Expr) -> Expr:
        x, y, z = spun(s, x, y, z, angles)
        return length(Point(length(Point(x, z)) - 0.6, y)) - thick

    met, light, height, _ = march(s, solid)
    return c.layered(c.duotone(s, s.point.y * 0.5 + 0.5), (met, c.dimmed(c.duotone(s, wave(height * 1.5)), light)))


@family
def marched_box(s: Sketch) -> Colour:
    angles, sides = (s.angle(), s.angle()), [s.uniform(0.25, 0.6) for _ in range(3)]

    def solid(x: Expr, y: Expr, z: Expr) -> Expr:
        q = [absolute(value) - side for value, side in zip(spun(s, x, y, z, angles), sides, strict=True)]
        out = [maximum(value, 0.0) for value in q]
        return sqrt(out[0] * out[0] + out[1] * out[1] + out[2] * out[2]) + minimum(maximum(*q), 0.0) - 0.03

    met, light, _, depth = march(s, solid)
    return c.layered(
        c.duotone(s, s.point.x * 0.5 + 0.5), (met, c.dimmed(c.cosine_palette(s, depth * 0.5), light * light * 1.4))
    )


@family
def marched_lumps(s: Sketch) -> Colour:
    centres = [(s.uniform(-0.6, 0.6), s.uniform(-0.6, 0.6), s.uniform(-0.4, 0.4)) for _ in range(4)]
    sizes, softness = [s.uniform(0.2, 0.4) for _ in centres], s.uniform(0.2, 0.5)

    def solid(x: Expr, y: Expr, z: Expr) -> Expr:
        found: Expr | None = None
        for (a, b, d), size in zip(centres, sizes, strict=True):
            one = sqrt((x - a) * (x - a) + (y - b) * (y - b) + (z - d) * (z - d)) - size
            found = one if found is None else shapes.smooth_union(found, one, softness)
        assert found is not None
        return found

    met, light, height, _ = march(s, solid, 10)
    return c.layered(c.duotone(s, s.point.y * 0.5 + 0.5), (met, c.dimmed(c.ramp(s, height * 0.7 + 0.5, 3), light)))


@family
def marched_waves(s: Sketch) -> Colour:
    rate, tall = s.uniform(3.0, 7.0), s.uniform(0.08, 0.2)
    phase = s.angle()

    def solid(x: Expr, y: Expr, z: Expr) -> Expr:
        return (y + 0.5 - (sin(x * rate + phase) + sin(z * rate * 0.8 + x)) * tall) * 0.6

    met, light, height, depth = march(s, solid, 16, 2.2)
    return c.layered(
        c.duotone(s, s.point.y * 0.5 + 0.5), (met * exp(-depth * 0.1), c.dimmed(c.duotone(s, height * 2.0 + 1.5), light))
    )


@family
def curtain(s: Sketch) -> Colour:
    p, seed = view(s, 0.9, 1.3), s.seed()
    rate = s.uniform(3.0, 9.0)

    def height(q: Point) -> Expr:
        return sin(q.x * rate + fbm(Point(q.x, q.y * 0.5), seed, 2) * 3.0) * 0.15

    value, along_x, along_y = slope(height, p, 0.02)
    print_ = checks(scaled(Point(p.x + value, p.y), s.uniform(2.0, 6.0)))
    return c.shaded(s, c.blended(c.random_colour(s), c.random_colour(s), print_ * s.uniform(0.0, 0.7)), along_x, along_y, 0.2)


@family
def pipes(s: Sketch) -> Colour:
    p = view(s)
    found = c.dark_colour(s)
    for k in range(5):
        q = rotated(moved(p, s.uniform(-0.8, 0.8), s.uniform(-0.8, 0.8)), s.coin() * (TAU / 4))
        width = s.uniform(0.08, 0.25)
        height = sqrt(1.0 - (q.y / width) * (q.y / width))
        shine = bell(q.y / width - 0.35, 0.25) * 0.6
        colour = c.dimmed(c.random_colour(s), 0.2 + 0.9 * height)
        found = c.layered(found, (shapes.filled(absolute(q.y) - width), c.added(colour, c.grey(shine + 0.01 * k))))
    return found


@family
def embossed_shape(s: Sketch) -> Colour:
    p, tips, depth = view(s, shift=0.2), s.integer(3, 8), s.uniform(0.3, 0.6)

    def height(q: Point) -> Expr:
        return smoothstep(0.12, -0.12, shapes.star(q, tips, 0.9, depth)) * 0.25

    _, along_x, along_y = slope(height, p, 0.02)
    grain = c.duotone(s, cloud(scaled(p, 4.0), s.seed(), 3) * 0.6)
    return c.shaded(s, grain, along_x, along_y, 0.3)


@family
def stacked_blocks(s: Sketch) -> Colour:
    p = scaled(view(s, 0.9, 1.2, 0.3), s.uniform(1.2, 2.5))
    found, seed = c.duotone(s, s.point.y * 0.5 + 0.5), s.seed()
    for row in range(4):  # from the farthest to the nearest
        q = Point(p.x + row * 0.5, p.y + 0.6 * row - 0.6)
        column = floor(q.x)
        height = lattice(Point(column, column * 0.0 + row), seed) * 1.2
        x = fract(q.x) - 0.5
        front = less(q.y, height) * less(x, 0.25)
        side = less(q.y, height + (x - 0.25) * 0.5) * less(0.25, x)
        colour = c.ramp(s, lattice(Point(column, column * 0.0 + row + 9.0), seed), 3)
        found = c.layered(found, (side, c.dimmed(colour, 0.45)), (front, colour))
    return found


@family
def corridor(s: Sketch) -> Colour:
    p = moved(s.point, s.uniform(-0.3, 0.3), s.uniform(-0.3, 0.3))
    wide, tall = s.uniform(0.7, 1.3), s.uniform(0.7, 1.3)
    across, upright = absolute(p.x) / wide, absolute(p.y) / tall
    depth = 1.0 / maximum(maximum(across, upright), 0.05)
    on_wall = less(upright, across)
    along = select(on_wall, p.y, p.x) * depth
    panel = lattice(Point(depth * s.uniform(1.0, 3.0), along * 2.0), s.seed())
    surface = c.blended(c.duotone(s, panel), c.duotone(s, stripes(depth * 2.0)), on_wall)
    return c.dimmed(surface, clamp(1.8 / depth))


@family
def rough_rock_ball(s: Sketch) -> Colour:
    p, seed = view(s, 0.9, 1.4, 0.2), s.seed()
    warped = noise_warped(p, 0.15, s.seed(), 3.0)
    inside, height = ball(warped, 0.8)
    _, bump_x, bump_y = slope(lambda q: ridges(scaled(q, 2.5), seed, 3), p, 0.03)
    steep = 1.0 / maximum(height, 0.3)
    rock = c.shaded(s, c.random_colour(s), -p.x * steep + bump_x * 0.3, -p.y * steep + bump_y * 0.3, 0.1)
    return c.layered(c.duotone(s, s.point.x * 0.5 + 0.5), (inside, rock))


@family
def cylinders_standing(s: Sketch) -> Colour:
    p = scaled(s.point, s.uniform(1.5, 3.5))
    column = floor(p.x)
    x = (fract(p.x) - 0.5) * 2.2
    height = lattice(Point(column, column * 0.0), s.seed()) * 2.0 - 0.8
    top = length(Point(x, (p.y - height) * 4.0)) - 1.0
    body = maximum(absolute(x) - 1.0, p.y - height)
    light = 0.25 + 0.8 * sqrt(1.0 - clamp(x * x)) * wave(x * 0.2 + 0.2)
    colour = c.family_colours(s, fract(column * 0.381))
    found = c.layered(c.duotone(s, p.y * 0.2 + 0.5), (shapes.filled(body, 0.06), c.dimmed(colour, light)))
    return c.layered(found, (shapes.filled(top, 0.06), colour))


@family
def glass_ball_over_stripes(s: Sketch) -> Colour:
    p = view(s, 0.9, 1.4, 0.2)
    inside, height = ball(p, 0.75)
    bent = scaled(p, 1.0 - 1.6 * height * s.uniform(0.4, 1.0))
    seen = Point(select(less(0.01, inside), bent.x, p.x), select(less(0.01, inside), bent.y, p.y))
    ground = c.bands(s, fract(rotated(seen, s.angle()).x * s.uniform(1.0, 2.5)), 4)
    rim = inside * bell(height, 0.35)
    return c.layered(ground, (rim * 0.7, c.dark_colour(s)), (bell(length(moved(p, 0.25, -0.3)), 0.12), c.light_colour(s)))


@family
def cone_pile_seen_from_above(s: Sketch) -> Colour:
    best: Expr = s.point.x * 0.0 - 9.0
    turn, number = s.point.x * 0.0, s.point.x * 0.0
    for k, centre in enumerate(points(s, 6, 1.0)):
        q = away_from(s.point, centre)
        height = s.uniform(0.3, 0.9) - length(q) * s.uniform(0.8, 1.5)
        higher = less(best, height)
        turn, number = select(higher, atan2(q.y, q.x), turn), select(higher, k / 6.0, number)
        best = maximum(best, height)
    return c.dimmed(c.spread_numbers(s, number + 0.2), 0.6 + 0.4 * cos(turn + s.angle()))


@family
def hatched_cylinder_shading(s: Sketch) -> Colour:
    p = view(s)
    _, turn = polar(p)
    tone = triangle(p.x * s.uniform(0.5, 1.5) + 0.2 * sin(turn * TAU))
    return c.blended(c.dark_colour(s), c.light_colour(s), c.hatched(tone, (p.x + p.y) * s.uniform(4.0, 8.0)))
