"""Pictures around a middle: rays, spirals, tunnels, kaleidoscopes, mandalas, eyes, galaxies."""

from __future__ import annotations

from raydfkd.synthesis.procedural.shaders import colours as c
from raydfkd.synthesis.procedural.shaders import shapes
from raydfkd.synthesis.procedural.shaders.coordinates import (
    kaleidoscope,
    lens,
    log_polar,
    moved,
    noise_warped,
    polar,
    rotated,
    scaled,
    stretched,
    swirled,
    tiled,
    view,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.expression import Colour, Expr, Point
from raydfkd.synthesis.procedural.shaders.families.noises import ground
from raydfkd.synthesis.procedural.shaders.fields import (
    away_from,
    checks,
    cloud,
    fbm,
    plasma,
    points,
    rays,
    ridges,
    rings,
    spiral,
    star_burst,
    stripes,
    value_cloud,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.functions import (
    TAU,
    absolute,
    bell,
    cells,
    clamp,
    cos,
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
    triangle,
    wave,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.shader_catalog import family
from raydfkd.synthesis.procedural.shaders.sketch import Sketch


@family
def sun_rays(s: Sketch) -> Colour:
    p = view(s)
    return c.blended(
        c.random_colour(s), c.random_colour(s), clamp((rays(p, s.integer(4, 16), s.uniform(0, 1)) - 0.5) * 8.0 + 0.5)
    )


@family
def archimedean_spiral(s: Sketch) -> Colour:
    return c.cosine_palette(s, spiral(view(s), s.integer(1, 6), s.uniform(1.0, 4.0), s.uniform(0, 1)))


@family
def logarithmic_spiral(s: Sketch) -> Colour:
    p = log_polar(view(s))
    arm = fract(p.x * s.uniform(0.5, 2.0) + p.y * s.integer(1, 5))
    return c.bands(s, arm, 4)


@family
def checkered_tunnel(s: Sketch) -> Colour:
    p = view(s, shift=0.4)
    radius, turn = polar(p)
    depth = 0.4 / maximum(radius, 0.05)
    wall = checks(Point(depth * s.uniform(1.5, 4.0), turn * 2.0 * s.integer(3, 8)))
    return c.dimmed(c.blended(c.random_colour(s), c.random_colour(s), wall), clamp(radius * 1.6))


@family
def square_tunnel(s: Sketch) -> Colour:
    p = view(s, shift=0.3)
    radius = maximum(absolute(p.x), absolute(p.y))
    depth, along = 0.5 / maximum(radius, 0.04), (p.x - p.y) / maximum(radius, 0.04)
    bricks = lattice(Point(depth * 3.0, along * s.uniform(1.5, 3.0)), s.seed())
    return c.dimmed(c.ramp(s, bricks, 4), clamp(radius * 1.8))


@family
def kaleidoscope_of_noise(s: Sketch) -> Colour:
    p = kaleidoscope(view(s, shift=0.2), s.integer(3, 9))
    return c.ramp(s, cloud(moved(scaled(p, s.uniform(1.5, 5.0)), s.uniform(0, 30), 0.0), s.seed(), 3), 5)


@family
def kaleidoscope_of_shapes(s: Sketch) -> Colour:
    p = kaleidoscope(view(s, shift=0.1), s.integer(3, 8))
    found = c.duotone(s, length(p))
    for _ in range(5):
        q = moved(p, s.uniform(-1.0, -0.1), s.uniform(-0.4, 0.1))
        box = shapes.turned_box(q, s.uniform(0.05, 0.35), s.uniform(0.03, 0.2), s.angle())
        found = c.layered(found, (shapes.filled(box), c.random_colour(s)))
    return found


@family
def kaleidoscope_of_cells(s: Sketch) -> Colour:
    p = kaleidoscope(view(s, shift=0.2), s.integer(3, 8))
    found = cells(moved(scaled(p, s.uniform(2.0, 5.0)), s.uniform(0, 30), 0.0), s.seed())
    return c.dimmed(c.spread_numbers(s, found.number), smoothstep(0.0, 0.15, found.second - found.nearest))


@family
def mandala(s: Sketch) -> Colour:
    radius, turn = polar(view(s, shift=0.05))
    ring = floor(radius * s.uniform(3.0, 6.0))
    petals = cos(turn * TAU * (ring * 2.0 + s.integer(3, 6)))
    return c.bands(s, fract(petals * 0.2 + ring * 0.37 + 0.3), 5)


@family
def swirled_stripes(s: Sketch) -> Colour:
    p = swirled(view(s), s.uniform(0.3, 1.2), s.uniform(0.3, 1.5))
    return c.bands(s, fract(p.x * s.uniform(0.8, 2.5)), 4)


@family
def swirled_checks(s: Sketch) -> Colour:
    p = scaled(swirled(view(s), s.uniform(-0.8, 0.8), s.uniform(0.3, 1.0)), s.uniform(1.5, 4.0))
    return c.blended(c.random_colour(s), c.duotone(s, s.point.y * 0.5 + 0.5), checks(p))


@family
def rose_curve(s: Sketch) -> Colour:
    radius, turn = polar(view(s, 0.8, 1.3, 0.15))
    curve = absolute(cos(turn * TAU * s.integer(2, 7) * 0.5)) * s.uniform(0.6, 1.0)
    return c.layered(
        c.duotone(s, radius), (smoothstep(0.05, -0.05, radius - curve), c.ramp(s, radius / maximum(curve, 0.1), 3))
    )


@family
def pie_chart(s: Sketch) -> Colour:
    radius, turn = polar(view(s, 0.9, 1.4, 0.3))
    slices = c.bands(s, fract(turn + s.uniform(0, 1)), 7)
    disc = smoothstep(0.03, -0.03, radius - s.uniform(0.6, 0.9)) * smoothstep(-0.03, 0.03, radius - s.uniform(0.0, 0.4))
    return c.layered(c.random_colour(s), (disc, slices))


@family
def target_rings(s: Sketch) -> Colour:
    radius = length(stretched(view(s), 1.0, s.uniform(0.6, 1.0)))
    return c.bands(s, fract(radius * s.uniform(0.7, 2.0)), 5)


@family
def iris(s: Sketch) -> Colour:
    p = view(s, 0.9, 1.6, 0.2)
    radius, turn = polar(p)
    fibre = value_cloud(Point(absolute(turn) * s.integer(20, 50), radius * 4.0), s.seed(), 3)
    eye = c.dimmed(c.ramp(s, radius + fibre * 0.3, 3), 0.4 + fibre)
    pupil, white = smoothstep(0.03, -0.03, radius - s.uniform(0.15, 0.4)), smoothstep(-0.03, 0.03, radius - 0.85)
    shine = bell(length(moved(p, s.uniform(-0.3, 0.3), -0.25)), 0.1)
    return c.layered(eye, (pupil, c.dark_colour(s)), (white, c.light_colour(s)), (shine, c.light_colour(s)))


@family
def fireworks(s: Sketch) -> Colour:
    sky = c.dimmed(c.dark_colour(s), 0.5)
    for centre in points(s, 4, 0.8):
        q = rotated(away_from(s.point, centre), s.angle())
        burst = star_burst(q, s.integer(8, 20) * 2.0, s.uniform(4.0, 12.0)) * bell(length(q), s.uniform(0.2, 0.6))
        sky = c.screened(sky, c.tinted(burst * 2.0, c.random_colour(s)))
    return sky


@family
def bricks_in_log_polar(s: Sketch) -> Colour:
    p = log_polar(view(s, shift=0.4))
    q = Point(p.x * s.uniform(1.0, 3.0), p.y * s.integer(4, 10))
    inside, cell = tiled(Point(q.x, q.y + (floor(q.x) % 2.0) * 0.5))
    gap = shapes.filled(shapes.box(inside, 0.42, 0.42), 0.06)
    return c.layered(c.dark_colour(s), (gap, c.family_colours(s, lattice(cell, s.seed()))))


@family
def scales_in_log_polar(s: Sketch) -> Colour:
    p = log_polar(view(s, shift=0.2))
    count = s.integer(6, 14)
    row = floor(p.x * 3.0)
    petal = absolute(fract(p.y * count + (row % 2.0) * 0.5) - 0.5) * 2.0
    edge = fract(p.x * 3.0) - (1.0 - petal * petal) * 0.9
    return c.cosine_palette(s, select(less(0.0, edge), fract(row * 0.29), fract(row * 0.29 + 0.5)) + 0.2 * edge)


@family
def lens_over_checks(s: Sketch) -> Colour:
    p = s.point
    for centre in points(s, 2, 0.6):
        p = lens(p, centre, s.uniform(-2.0, 0.8), s.uniform(0.05, 0.3))
    return c.blended(
        c.duotone(s, s.point.x * 0.5 + 0.5), c.random_colour(s), checks(scaled(rotated(p, s.angle()), s.uniform(2.0, 5.0)))
    )


@family
def galaxy(s: Sketch) -> Colour:
    p = stretched(view(s, 0.9, 1.5, 0.2), 1.0, s.uniform(1.0, 2.2))
    radius, turn = polar(p)
    arms = wave(turn * 2.0 + log_polar(p).x * s.uniform(0.4, 1.0))
    dust = cloud(scaled(rotated(p, radius * 3.0), 4.0), s.seed(), 4)
    light = exp(-radius * s.uniform(1.5, 3.0)) * (0.4 + arms * dust * 2.0)
    stars = bell(cells(ground(s, 6.0, 9.0), s.seed()).nearest, 0.08)
    return c.screened(c.fire(s, light), c.grey(stars * 0.7))


@family
def clock_dial(s: Sketch) -> Colour:
    p = view(s, 0.9, 1.3, 0.2)
    radius, turn = polar(p)
    mark = bell(fract(turn * 12.0 + 0.5) - 0.5, 0.12) * less(absolute(radius - 0.75), 0.1)
    hands: Expr = s.point.x * 0.0
    for reach in (0.65, 0.45):
        hands = maximum(hands, shapes.filled(shapes.box(moved(rotated(p, s.angle()), -reach * 0.5, 0.0), reach * 0.5, 0.04)))
    face = c.layered(c.random_colour(s), (smoothstep(0.03, -0.03, radius - 0.9), c.light_colour(s)))
    return c.layered(face, (mark, c.dark_colour(s)), (hands, c.random_colour(s)))


@family
def sunflower_seeds(s: Sketch) -> Colour:
    p = view(s, 0.9, 1.4, 0.2)
    radius, turn = polar(p)
    area = radius * radius * s.uniform(20.0, 50.0)
    one, other = fract(turn * 13.0 + area * 0.1), fract(turn * -21.0 + area * 0.1)
    seed = minimum(triangle(one), triangle(other))
    return c.layered(c.random_colour(s), (smoothstep(1.0, 0.95, radius), c.ramp(s, seed + radius * 0.3, 4)))


@family
def vortex_of_noise(s: Sketch) -> Colour:
    p = swirled(view(s), s.uniform(0.5, 2.0), s.uniform(0.2, 0.8))
    return c.cosine_palette(s, ridges(scaled(p, s.uniform(1.0, 3.0)), s.seed(), 4))


@family
def shell(s: Sketch) -> Colour:
    p = log_polar(moved(view(s, shift=0.2), 0.2, 0.0))
    along = p.x * s.uniform(0.8, 1.5) - p.y
    rib = wave(p.x * s.uniform(6.0, 14.0) + p.y * 6.0)
    return c.dimmed(c.duotone(s, triangle(along)), 0.4 + 0.4 * rib + 0.3 * triangle(along))


@family
def ring_planet_gears(s: Sketch) -> Colour:
    p = view(s, shift=0.1)
    radius, turn = polar(p)
    lobes = s.integer(3, 7)
    wedge = fract(turn * lobes) - 0.5
    moon = Point(radius * cos(wedge * TAU / lobes) - 0.62, radius * sin(wedge * TAU / lobes))
    small = shapes.ring(shapes.circle(moon, 0.2), 0.06)
    hub = shapes.gear(p, lobes * 4.0, 0.3, 0.06)
    rim = shapes.ring(shapes.circle(p, 0.95), 0.08)
    return c.layered(c.duotone(s, radius), (shapes.filled(shapes.union(small, hub, rim)), c.ramp(s, turn + 0.5, 4)))


@family
def peacock_eyes(s: Sketch) -> Colour:
    found = c.duotone(s, fbm(scaled(s.point, 2.0), s.seed(), 3) + 0.5)
    for centre in points(s, 4, 0.8):
        q = noise_warped(away_from(s.point, centre), 0.1, s.seed(), 3.0)
        eye = length(stretched(q, 1.0, 0.7)) * s.uniform(1.5, 3.5)
        found = c.layered(found, (smoothstep(1.0, 0.9, eye), c.bands(s, eye, 5)))
    return found


@family
def ring_interference(s: Sketch) -> Colour:
    p = view(s)
    return c.blended(c.random_colour(s), c.cosine_palette(s, plasma(s, p, 3)), stripes(rings(p, s.uniform(1.0, 3.0)) * 2.0))
