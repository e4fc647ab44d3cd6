"""Random points and the cells around them: mosaics, cracks, bubbles, scales, stars, pebbles."""

from __future__ import annotations

from raydfkd.synthesis.procedural.shaders import colours as c
from raydfkd.synthesis.procedural.shaders import shapes
from raydfkd.synthesis.procedural.shaders.coordinates import moved, noise_warped, rotated, scaled, stretched, view, wobbled
from raydfkd.synthesis.procedural.shaders.expression import Colour, Point
from raydfkd.synthesis.procedural.shaders.families.noises import ground
from raydfkd.synthesis.procedural.shaders.fields import (
    away_from,
    checks,
    cloud,
    fbm,
    metaballs,
    nearest_point,
    octaves,
    plasma,
    points,
    stripes,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.functions import (
    TAU,
    absolute,
    angle_of,
    bell,
    cells,
    clamp,
    cos,
    exp,
    fract,
    length,
    less,
    minimum,
    mix,
    smoothstep,
    total,
    wave,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.shader_catalog import family
from raydfkd.synthesis.procedural.shaders.sketch import Sketch


@family
def voronoi_mosaic(s: Sketch) -> Colour:
    return c.ramp(s, cells(ground(s), s.seed()).number, 5)


@family
def stained_glass(s: Sketch) -> Colour:
    found = cells(ground(s, 1.0, 3.0), s.seed())
    lead = smoothstep(0.03, 0.1, found.second - found.nearest)
    return c.dimmed(c.spread_numbers(s, found.number), lead * (1.0 - found.nearest * 0.4))


@family
def dried_mud(s: Sketch) -> Colour:
    p = noise_warped(ground(s, 1.5, 3.5), 0.2, s.seed(), 2.0)
    found = cells(p, s.seed())
    crack = smoothstep(0.0, 0.12, found.second - found.nearest)
    mud = c.duotone(s, cloud(scaled(p, 3.0), s.seed(), 3) * 0.7 + found.number * 0.3)
    return c.blended(c.dark_colour(s), mud, crack)


@family
def leather(s: Sketch) -> Colour:
    found = cells(ground(s, 3.0, 7.0), s.seed())
    away = exp(-found.nearest * 2.0)
    return c.shaded(s, c.random_colour(s), found.way.x * away * 2.0, found.way.y * away * 2.0, 0.4)


@family
def worley_distance(s: Sketch) -> Colour:
    return c.cosine_palette(s, cells(ground(s), s.seed()).nearest)


@family
def city_block_cells(s: Sketch) -> Colour:
    found = cells(ground(s), s.seed(), 1.0, "manhattan")
    return c.dimmed(c.ramp(s, found.number, 4), 0.4 + 0.7 * smoothstep(0.0, 0.3, found.second - found.nearest))


@family
def chessboard_metric_cells(s: Sketch) -> Colour:
    found = cells(ground(s), s.seed(), 1.0, "chebyshev")
    return c.bands(s, fract(found.nearest * s.uniform(1.0, 4.0) + found.number), 4)


@family
def soap_bubbles(s: Sketch) -> Colour:
    found = cells(ground(s, 1.0, 3.0), s.seed(), 0.9)
    rim = smoothstep(0.25, 0.5, found.nearest) * smoothstep(0.55, 0.48, found.nearest)
    shine = bell(length(moved(found.way, 0.15, 0.15)), 0.12)
    film = c.screened(c.duotone(s, s.point.y * 0.5 + 0.5), c.tinted(rim, c.hue(found.number + found.nearest, 0.5)))
    return c.screened(film, c.grey(shine))


@family
def worley_clouds(s: Sketch) -> Colour:
    value = octaves(lambda p, seed: cells(p, seed).nearest, ground(s, 0.8, 2.0), s.seed(), 3)
    return c.dark_to_light(s, value * 1.4)


@family
def cells_with_stripes(s: Sketch) -> Colour:
    p = ground(s, 1.0, 2.5)
    found = cells(p, s.seed())
    line = stripes(rotated(p, found.number * TAU).x * s.uniform(2.0, 6.0), 6.0)
    return c.blended(c.random_colour(s), c.family_colours(s, found.number), line)


@family
def cells_with_rings(s: Sketch) -> Colour:
    found = cells(ground(s, 1.0, 2.5), s.seed())
    return c.blended(c.random_colour(s), c.spread_numbers(s, found.number), wave(found.nearest * s.uniform(2.0, 6.0)))


@family
def cells_in_cells(s: Sketch) -> Colour:
    p = ground(s, 0.8, 1.6)
    big, small = cells(p, s.seed()), cells(scaled(p, s.uniform(3.0, 5.0)), s.seed())
    border = smoothstep(0.04, 0.12, big.second - big.nearest)
    return c.blended(c.dark_colour(s), c.ramp(s, mix(big.number, small.number, 0.35), 5), border)


@family
def cut_crystals(s: Sketch) -> Colour:
    found = cells(ground(s, 1.0, 3.0), s.seed(), 1.0, "manhattan")
    facing = 0.5 + 0.5 * cos(angle_of(found.way) + s.angle())
    return c.blended(c.duotone(s, found.number), c.light_colour(s), facing * facing * 0.8)


@family
def giraffe(s: Sketch) -> Colour:
    p = noise_warped(ground(s, 1.0, 2.5), 0.15, s.seed(), 3.0)
    found = cells(p, s.seed(), 0.8)
    patch = smoothstep(0.08, 0.2, found.second - found.nearest)
    return c.blended(c.light_colour(s), c.dimmed(c.random_colour(s), 0.5 + 0.3 * found.number), patch)


@family
def starry_sky(s: Sketch) -> Colour:
    sky = c.tinted(cloud(ground(s, 0.5, 1.5), s.seed(), 4) ** 2.0, c.random_colour(s))
    for density in (3.0, 6.0):
        found = cells(scaled(ground(s, 0.9, 1.1), density), s.seed())
        sky = c.screened(sky, c.tinted(bell(found.nearest, 0.05 + 0.1 * found.number), c.light_colour(s)))
    return sky


@family
def pebbles(s: Sketch) -> Colour:
    p = stretched(ground(s, 1.5, 3.5), 1.0, s.uniform(0.6, 1.4))
    found = cells(p, s.seed(), 0.7)
    stone = smoothstep(0.05, 0.3, found.second - found.nearest)
    lit = c.shaded(s, c.family_colours(s, found.number), -found.way.x * 1.5, -found.way.y * 1.5, 0.2)
    return c.blended(c.dark_colour(s), lit, stone)


@family
def gradient_in_each_cell(s: Sketch) -> Colour:
    found = cells(ground(s, 0.8, 2.5), s.seed())
    turned = rotated(found.way, found.number * TAU)
    return c.blended(c.family_colours(s, found.number), c.spread_numbers(s, found.number), clamp(turned.x + 0.5))


@family
def field_seen_through_cells(s: Sketch) -> Colour:
    p = view(s)
    found = cells(scaled(p, s.uniform(3.0, 8.0)), s.seed())
    middle = Point(p.x + found.way.x * 0.2, p.y + found.way.y * 0.2)
    return c.cosine_palette(s, plasma(s, middle, 3) + 0.3 * found.number)


@family
def round_dots_scattered(s: Sketch) -> Colour:
    found = cells(ground(s, 1.5, 4.0), s.seed(), 0.7)
    dot_ = shapes.filled(found.nearest - 0.15 - 0.25 * found.number, 0.05)
    return c.layered(c.random_colour(s), (dot_, c.spread_numbers(s, fract(found.number * 7.0))))


@family
def checks_in_cells(s: Sketch) -> Colour:
    p = ground(s, 0.8, 2.0)
    found = cells(p, s.seed())
    turned = scaled(rotated(p, found.number * TAU), s.uniform(3.0, 6.0))
    return c.blended(c.family_colours(s, found.number), c.dark_colour(s), checks(turned) * less(found.number, 0.7))


@family
def spider_webs(s: Sketch) -> Colour:
    found = cells(wobbled(ground(s, 0.7, 1.5), 0.2, 3.0), s.seed())
    spokes = absolute(fract(angle_of(found.way) / TAU * s.integer(6, 12)) - 0.5)
    thread = minimum(spokes * found.nearest * 3.0, absolute(fract(found.nearest * s.uniform(4.0, 8.0)) - 0.5) * 0.4)
    return c.blended(c.light_colour(s), c.dark_colour(s), smoothstep(0.02, 0.12, thread))


@family
def metaball_drops(s: Sketch) -> Colour:
    energy = metaballs(s, s.point, 6, 1.0)
    body = smoothstep(0.9, 1.1, energy)
    return c.layered(c.duotone(s, energy), (body, c.ramp(s, energy * 0.25, 3)))


@family
def metaball_contours(s: Sketch) -> Colour:
    energy = metaballs(s, view(s), 5, 1.0)
    return c.bands(s, fract(energy * s.uniform(0.6, 2.0)), 5)


@family
def few_great_cells(s: Sketch) -> Colour:
    distance, number = nearest_point(noise_warped(s.point, 0.2, s.seed(), 3.0), points(s, 7, 1.0))
    return c.dimmed(c.spread_numbers(s, number + 0.13), 1.1 - distance * s.uniform(0.3, 1.2))


@family
def distances_multiplied(s: Sketch) -> Colour:
    product = total([length(away_from(s.point, q)) ** 0.5 for q in points(s, 5, 0.9)])
    return c.cosine_palette(s, wave(product * s.uniform(0.8, 2.5) + fbm(scaled(s.point, 2.0), s.seed(), 2) * 0.2))


@family
def foam(s: Sketch) -> Colour:
    found = cells(ground(s, 1.5, 4.0), s.seed())
    other = cells(ground(s, 3.0, 6.0), s.seed())
    wall = bell(found.second - found.nearest, 0.12) + 0.6 * bell(other.second - other.nearest, 0.12)
    return c.blended(c.duotone(s, found.nearest), c.light_colour(s), clamp(wall))
