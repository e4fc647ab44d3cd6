"""One picture rendered by marks of another kind: halftone, hatching, dithering, pixels, strokes, faulty screens."""

from __future__ import annotations

from raydfkd.synthesis.procedural.shaders import colours as c
from raydfkd.synthesis.procedural.shaders import shapes
from raydfkd.synthesis.procedural.shaders.coordinates import moved, noise_warped, rotated, scaled, stretched, tiled, view
from raydfkd.synthesis.procedural.shaders.expression import Colour, Expr, Point
from raydfkd.synthesis.procedural.shaders.families.noises import ground
from raydfkd.synthesis.procedural.shaders.fields import away_from, cloud, fbm, plasma, points, rings, stripes
from raydfkd.synthesis.procedural.shaders.functions import (
    absolute,
    cells,
    clamp,
    floor,
    fract,
    lattice,
    length,
    less,
    maximum,
    minimum,
    sin,
    sqrt,
    value_noise,
    wave,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.shader_catalog import family
from raydfkd.synthesis.procedural.shaders.sketch import Sketch


def pixels(p: Point, count: Expr) -> Point:
    """The middle of the square that p lies in, ``count`` squares to a unit."""
    return Point((floor(p.x * count) + 0.5) / count, (floor(p.y * count) + 0.5) / count)


@family
def halftone_dots(s: Sketch) -> Colour:
    p = scaled(view(s), s.uniform(5.0, 10.0))
    inside, _ = tiled(rotated(p, 0.4))
    tone = clamp(plasma(s, s.point, 3) * 0.8 + 0.5)
    return c.blended(c.light_colour(s), c.dark_colour(s), shapes.filled(length(inside) - sqrt(tone) * 0.6, 0.12))


@family
def halftone_in_three_inks(s: Sketch) -> Colour:
    coverage = []
    for angle in (0.26, 1.31, 0.0):
        inside, _ = tiled(scaled(rotated(s.point, angle), s.uniform(6.0, 10.0)))
        tone = clamp(cloud(ground(s, 0.7, 1.5), s.seed(), 2) * 1.4 - 0.2)
        coverage.append(shapes.filled(length(inside) - tone * 0.6, 0.15))
    return c.three_channels(*(1.0 - 0.9 * ink for ink in coverage))


@family
def cross_hatching(s: Sketch) -> Colour:
    tone = cloud(ground(s, 0.6, 1.5), s.seed(), 2)
    rate = s.uniform(3.0, 7.0)
    ink = minimum(c.hatched(tone, s.point.x * rate, 3), c.hatched(tone + 0.25, rotated(s.point, 1.2).x * rate, 3))
    return c.blended(c.dark_colour(s), c.light_colour(s), ink)


@family
def woodcut(s: Sketch) -> Colour:
    p = view(s)
    height = cloud(scaled(p, s.uniform(0.8, 2.0)), s.seed(), 2)
    line = fract((p.y + height * s.uniform(0.3, 0.9)) * s.uniform(5.0, 10.0))
    return c.blended(c.dark_colour(s), c.light_colour(s), shapes.filled(absolute(line - 0.5) - 0.45 * height, 0.15))


@family
def ordered_dither(s: Sketch) -> Colour:
    count = s.uniform(8.0, 16.0)
    cell = Point(floor(s.point.x * count), floor(s.point.y * count))
    threshold: Expr = s.point.x * 0.0
    for level, weight in ((1.0, 0.5), (2.0, 0.125)):
        a, b = floor(cell.x / level) % 2.0, floor(cell.y / level) % 2.0
        threshold = threshold + weight * (absolute(a - b) + 0.5 * b)
    tone = cloud(scaled(pixels(s.point, count), s.uniform(0.8, 2.0)), s.seed(), 2)
    return c.blended(c.random_colour(s), c.random_colour(s), less(threshold * 0.9, tone))


@family
def coarse_pixels(s: Sketch) -> Colour:
    p = pixels(rotated(s.point, 0.0), s.uniform(3.0, 9.0))
    return c.posterized(c.cosine_palette(s, plasma(s, p, 4) + 0.5), s.integer(2, 6))


@family
def cross_stitch(s: Sketch) -> Colour:
    count = s.uniform(5.0, 10.0)
    inside, _ = tiled(scaled(s.point, count))
    thread = minimum(absolute(inside.x - inside.y), absolute(inside.x + inside.y))
    picture = c.bands(s, cloud(scaled(pixels(s.point, count), s.uniform(0.8, 2.0)), s.seed(), 2) * 1.4 - 0.2, 4)
    return c.layered(c.light_colour(s), (shapes.filled(thread - 0.18, 0.12), picture))


@family
def screen_lines(s: Sketch) -> Colour:
    picture = c.cosine_palette(s, plasma(s, view(s), 3) + 0.5)
    row = 0.4 + 0.7 * stripes(s.point.y * s.uniform(5.0, 10.0))
    column = fract(s.point.x * s.uniform(5.0, 10.0))
    mask = [0.5 + 0.5 * less(absolute(column - k / 3 - 0.16), 0.2) for k in range(3)]
    return Colour(*(channel * row * share * 1.3 for channel, share in zip(picture, mask, strict=True)))


@family
def shifted_rows(s: Sketch) -> Colour:
    band = floor(s.point.y * s.uniform(3.0, 9.0))
    jump = (lattice(Point(band, band * 0.0), s.seed()) - 0.5) * s.uniform(0.3, 1.2)
    seed, p = s.seed(), moved(s.point, jump, 0.0)
    channels = [cloud(scaled(moved(p, k * 0.08, 0.0), 1.6), seed, 3) for k in range(3)]
    return c.posterized(c.three_channels(*channels), s.integer(3, 8))


@family
def misprinted_colours(s: Sketch) -> Colour:
    a, b, d = points(s, 3, 0.15)
    tips, radius = s.integer(4, 8), s.uniform(0.5, 0.9)
    p = view(s, shift=0.2)
    inks = [shapes.filled(shapes.star(away_from(p, q), tips, radius, 0.5)) for q in (a, b, d)]
    paper = c.light_colour(s)
    return Colour(*(sheet * (1.0 - 0.85 * ink) for sheet, ink in zip(paper, inks, strict=True)))


@family
def stippling(s: Sketch) -> Colour:
    found = cells(scaled(s.point, s.uniform(6.0, 10.0)), s.seed())
    tone = clamp(rings(view(s), s.uniform(0.5, 1.5)) * 0.8 + 0.1)
    return c.blended(c.dark_colour(s), c.light_colour(s), less(tone * 0.6, found.nearest))


@family
def brush_strokes(s: Sketch) -> Colour:
    found = c.random_colour(s)
    for density in (2.0, 3.5):
        inside, cell = tiled(scaled(noise_warped(s.point, 0.2, s.seed(), 2.0), density))
        turned = rotated(inside, fbm(scaled(cell, 0.3), s.seed(), 1) * 6.0)
        hair = value_noise(stretched(turned, 2.0, 18.0), s.seed())
        stroke = shapes.filled(shapes.box(turned, 0.55, 0.22), 0.1) * clamp(hair * 1.6)
        found = c.layered(found, (stroke, c.ramp(s, lattice(cell, s.seed()), 4)))
    return found


@family
def letters_of_blocks(s: Sketch) -> Colour:
    inside, cell = tiled(scaled(view(s, 0.9, 1.1), s.uniform(1.0, 3.0)))
    dots = Point(floor((inside.x + 0.5) * 5.0), floor((inside.y + 0.5) * 5.0))
    mirrored_x = absolute(dots.x - 2.0)  # each sign is its own mirror image
    on = less(lattice(Point(cell.x * 7.0 + mirrored_x, cell.y * 7.0 + dots.y), s.seed()), 0.5)
    frame = less(maximum(absolute(inside.x), absolute(inside.y)), 0.4)
    return c.layered(c.random_colour(s), (on * frame, c.family_colours(s, lattice(cell, s.seed()))))


@family
def engraved_waves(s: Sketch) -> Colour:
    p = view(s)
    tone = clamp(plasma(s, p, 3) + 0.5)
    y = p.y * s.uniform(4.0, 8.0) + sin(p.x * s.uniform(10.0, 20.0)) * tone * 0.4
    return c.two_of(s, shapes.filled(absolute(fract(y) - 0.5) - 0.1 - 0.15 * tone, 0.1), wave(p.x * 0.3) * 0.4)
