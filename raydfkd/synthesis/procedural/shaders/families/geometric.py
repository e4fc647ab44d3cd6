"""Plain shapes: one, several, combined, outlined, with shadows and textures."""

from __future__ import annotations

from raydfkd.synthesis.procedural.shaders import colours as c
from raydfkd.synthesis.procedural.shaders import shapes
from raydfkd.synthesis.procedural.shaders.coordinates import mirrored, moved, rotated, scaled, view
from raydfkd.synthesis.procedural.shaders.expression import Colour, Expr, Point
from raydfkd.synthesis.procedural.shaders.fields import away_from, cloud, fbm, points, stripes
from raydfkd.synthesis.procedural.shaders.functions import (
    TAU,
    absolute,
    angle_of,
    cos,
    exp,
    floor,
    fract,
    length,
    sin,
    total,
    wave,
)
from raydfkd.synthesis.procedural.shaders.shader_catalog import family
from raydfkd.synthesis.procedural.shaders.sketch import Sketch


@family
def polygon_on_gradient(s: Sketch) -> Colour:
    p = view(s)
    inside = shapes.filled(shapes.polygon(p, s.integer(3, 8), s.uniform(0.3, 0.9)))
    return c.layered(c.duotone(s, s.point.y * 0.5 + 0.5), (inside, c.duotone(s, p.x + 0.5)))


@family
def nested_polygons(s: Sketch) -> Colour:
    sides, p = s.integer(3, 7), view(s)
    distance = shapes.polygon(rotated(p, shapes.polygon(p, sides, 0.0) * s.uniform(-1, 1)), sides, 0.0)
    return c.bands(s, fract(distance * s.uniform(0.8, 2.5)), 4)


@family
def star_with_outline(s: Sketch) -> Colour:
    p = view(s)
    distance = shapes.star(p, s.integer(4, 9), s.uniform(0.6, 1.1), s.uniform(0.3, 0.7))
    ground = c.layered(c.random_colour(s), (shapes.filled(distance), c.random_colour(s)))
    return c.layered(ground, (shapes.outline(distance, s.uniform(0.02, 0.1)), c.dark_colour(s)))


@family
def layered_flower(s: Sketch) -> Colour:
    p, petals = view(s, shift=0.3), s.integer(4, 9)
    found = c.duotone(s, cloud(s.point, s.seed(), 2))
    for radius in (0.95, 0.65, 0.35):
        petal = shapes.flower(rotated(p, s.angle()), petals, radius, s.uniform(0.1, 0.4))
        found = c.layered(found, (shapes.filled(petal), c.random_colour(s)))
    return found


@family
def two_gears(s: Sketch) -> Colour:
    found = c.duotone(s, s.point.x * 0.5 + 0.5)
    for centre in points(s, 2, 0.6):
        p = rotated(away_from(s.point, centre), s.angle())
        wheel = shapes.gear(p, s.integer(6, 14), s.uniform(0.4, 0.7), s.uniform(0.08, 0.18))
        metal = c.dimmed(c.light_colour(s), 0.6 + 0.4 * wave(angle_of(p) / TAU * 2.0))
        found = c.layered(found, (shapes.filled(wheel), metal))
    return found


@family
def crescent_and_glow(s: Sketch) -> Colour:
    p = view(s)
    distance = shapes.moon(p, s.uniform(0.5, 0.9), s.uniform(0.2, 0.6))
    sky = c.tinted(exp(-absolute(distance) * s.uniform(2, 6)), c.random_colour(s))
    return c.layered(c.added(c.dark_colour(s), sky), (shapes.filled(distance), c.light_colour(s)))


@family
def hearts_in_a_row(s: Sketch) -> Colour:
    p = scaled(view(s), s.uniform(1.0, 2.2))
    column = floor(p.x)
    q = Point(fract(p.x) * 3.0 - 1.5, p.y * 3.0 + sin(column * 2.4) * 0.6)
    inside = shapes.filled(shapes.heart(q, s.uniform(0.8, 1.2)), 0.1)
    return c.layered(c.duotone(s, p.y + 0.5), (inside, c.spread_numbers(s, fract(column * 0.377))))


@family
def carved_shape(s: Sketch) -> Colour:
    p = view(s, shift=0.3)
    whole = shapes.box(p, s.uniform(0.5, 0.9), s.uniform(0.5, 0.9))
    for centre in points(s, 3, 0.7):
        whole = shapes.minus(whole, shapes.circle(away_from(p, centre), s.uniform(0.15, 0.4)))
    return c.layered(c.random_colour(s), (shapes.filled(whole), c.duotone(s, p.y * 0.7 + 0.5)))


@family
def exclusive_discs(s: Sketch) -> Colour:
    distance = shapes.circle(away_from(s.point, points(s, 1, 0.5)[0]), s.uniform(0.4, 0.8))
    for centre in points(s, 4, 0.8):
        distance = shapes.either(distance, shapes.circle(away_from(s.point, centre), s.uniform(0.3, 0.7)))
    return c.blended(c.random_colour(s), c.random_colour(s), shapes.filled(distance))


@family
def melted_blobs(s: Sketch) -> Colour:
    softness = s.uniform(0.15, 0.5)
    distance: Expr | None = None
    for centre in points(s, 5, 0.9):
        ball = shapes.circle(away_from(s.point, centre), s.uniform(0.1, 0.35))
        distance = ball if distance is None else shapes.smooth_union(distance, ball, softness)
    assert distance is not None
    inner = c.ramp(s, -distance * 3.0, 3)
    return c.layered(c.random_colour(s), (shapes.filled(distance), inner))


@family
def scattered_boxes(s: Sketch) -> Colour:
    found = c.random_colour(s)
    for centre in points(s, 9, 1.0):
        box = shapes.turned_box(away_from(s.point, centre), s.uniform(0.08, 0.5), s.uniform(0.08, 0.5), s.angle())
        found = c.layered(found, (shapes.filled(box), c.random_colour(s)))
    return found


@family
def scattered_discs_see_through(s: Sketch) -> Colour:
    found = c.light_colour(s)
    for centre in points(s, 8, 1.0):
        disc = shapes.circle(away_from(s.point, centre), s.uniform(0.15, 0.6))
        found = c.layered(found, (shapes.filled(disc) * s.uniform(0.3, 0.8), c.random_colour(s)))
    return found


@family
def pick_up_sticks(s: Sketch) -> Colour:
    found = c.duotone(s, s.point.y * 0.5 + 0.5)
    ends = points(s, 20, 1.3)
    for start, end in zip(ends[::2], ends[1::2], strict=True):
        stick = shapes.segment(s.point, start, end) - s.uniform(0.02, 0.09)
        found = c.layered(found, (shapes.filled(moved_shadow(stick)) * 0.4, c.dark_colour(s)))
        found = c.layered(found, (shapes.filled(stick), c.random_colour(s)))
    return found


def moved_shadow(distance: Expr) -> Expr:
    return distance - 0.04


@family
def triangle_collage(s: Sketch) -> Colour:
    found = c.random_colour(s)
    for centre in points(s, 7, 0.9):
        q = rotated(away_from(s.point, centre), s.angle())
        shape = shapes.polygon(q, 3.0, s.uniform(0.1, 0.35))
        found = c.layered(found, (shapes.filled(shape), c.duotone(s, q.x + 0.5)))
    return found


@family
def echoing_outline(s: Sketch) -> Colour:
    a, b = points(s, 2, 0.7)
    shape = shapes.union(
        shapes.turned_box(away_from(s.point, a), s.uniform(0.2, 0.6), s.uniform(0.1, 0.4), s.angle()),
        shapes.circle(away_from(s.point, b), s.uniform(0.15, 0.4)),
    )
    return c.cosine_palette(s, stripes(shape * s.uniform(2.0, 7.0), s.uniform(1.0, 6.0)))


@family
def neon_shapes(s: Sketch) -> Colour:
    found = c.dimmed(c.dark_colour(s), 0.5)
    a, b, d = points(s, 3, 0.7)
    outlines = (
        shapes.polygon(rotated(away_from(s.point, a), s.angle()), s.integer(3, 6), s.uniform(0.2, 0.6)),
        shapes.circle(away_from(s.point, b), s.uniform(0.2, 0.7)),
        shapes.star(away_from(s.point, d), s.integer(5, 8), s.uniform(0.3, 0.8), 0.5),
    )
    for shape in outlines:
        found = c.screened(found, c.tinted(shapes.glow(shape, s.uniform(0.02, 0.07)), c.random_colour(s)))
    return found


@family
def paper_cutout_with_shadow(s: Sketch) -> Colour:
    p = view(s, shift=0.2)
    shift = moved(p, s.uniform(-0.15, 0.15), s.uniform(-0.15, 0.15))
    petals, radius, depth = s.integer(3, 8), s.uniform(0.4, 0.8), s.uniform(0.1, 0.5)
    paper = c.duotone(s, cloud(scaled(s.point, 2.0), s.seed(), 3))
    shadow = shapes.filled(shapes.flower(shift, petals, radius, depth), 0.12) * 0.6
    shape = shapes.filled(shapes.flower(p, petals, radius, depth))
    return c.layered(paper, (shadow, c.dark_colour(s)), (shape, c.random_colour(s)))


@family
def mirrored_boxes(s: Sketch) -> Colour:
    p = mirrored(view(s, shift=0.2))
    found = c.duotone(s, length(p))
    for centre in points(s, 4, 0.8):
        q = Point(p.x - absolute(centre.x), p.y - absolute(centre.y))
        shape = shapes.turned_box(q, s.uniform(0.05, 0.4), s.uniform(0.05, 0.4), s.angle())
        found = c.layered(found, (shapes.filled(shape), c.random_colour(s)))
    return found


@family
def bar_chart(s: Sketch) -> Colour:
    p = scaled(view(s, 0.9, 1.4, 0.2), s.uniform(2.0, 5.0))
    column, seed = floor(p.x), s.uniform(0.2, 0.9)
    height = fract(sin(column * 12.9 + seed * 40.0) * 43.7) * 3.0 - 1.5
    bar = shapes.box(Point(fract(p.x) - 0.5, p.y - height + 4.0), s.uniform(0.25, 0.45), 4.0)
    return c.layered(c.duotone(s, p.y * 0.2 + 0.5), (shapes.filled(bar), c.family_colours(s, fract(column * 0.61))))


@family
def wandering_ribbon(s: Sketch) -> Colour:
    p = view(s)
    found = c.duotone(s, p.x * 0.4 + 0.5)
    for _ in range(3):
        middle = total([sin(p.x * s.uniform(1.0, 5.0) + s.angle()) * s.uniform(0.1, 0.35) for _ in range(2)])
        width = s.uniform(0.06, 0.2) * (1.0 + 0.5 * cos(p.x * s.uniform(1, 6)))
        ribbon = absolute(p.y - middle - s.uniform(-0.6, 0.6)) - width
        found = c.layered(found, (shapes.filled(ribbon), c.duotone(s, wave(p.x * s.uniform(0.5, 3.0)))))
    return found


@family
def torn_paper(s: Sketch) -> Colour:
    p = view(s)
    found = c.random_colour(s)
    for height in (0.55, 0.0, -0.55):
        edge = p.y - height - fbm(Point(p.x * 2.0, p.x * 0.3 + height * 9.0), s.seed(), 4) * s.uniform(0.3, 0.7)
        found = c.layered(found, (shapes.filled(edge - 0.04), c.light_colour(s)), (shapes.filled(edge), c.random_colour(s)))
    return found
