"""The plane covered with equal pieces: squares, bricks, hexagons, triangles, threads, arcs."""

from __future__ import annotations

import math

from raydfkd.synthesis.procedural.shaders import colours as c
from raydfkd.synthesis.procedural.shaders import shapes
from raydfkd.synthesis.procedural.shaders.coordinates import (
    brick_tiled,
    hex_tiled,
    mirror_tiled,
    moved,
    noise_warped,
    rotated,
    scaled,
    sheared,
    stretched,
    tiled,
    view,
    wobbled,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.expression import Colour, Expr, Point
from raydfkd.synthesis.procedural.shaders.fields import checks, cloud, fbm, stripes, weave
from raydfkd.synthesis.procedural.shaders.functions import (
    absolute,
    clamp,
    dot,
    floor,
    fract,
    lattice,
    length,
    less,
    maximum,
    minimum,
    select,
    smoothstep,
    triangle,
    wave,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.shader_catalog import family
from raydfkd.synthesis.procedural.shaders.sketch import Sketch


def tiles(s: Sketch, fewest: float = 1.5, most: float = 5.0) -> Point:
    """The plane, turned and moved, with that many unit tiles from its middle to its edge."""
    return scaled(view(s, 0.9, 1.1), s.log_uniform(fewest, most))


@family
def checkerboard(s: Sketch) -> Colour:
    p = sheared(tiles(s), s.uniform(-0.8, 0.8))
    return c.blended(c.random_colour(s), c.random_colour(s), checks(p))


@family
def coloured_squares(s: Sketch) -> Colour:
    inside, cell = tiled(tiles(s))
    gap = shapes.filled(shapes.box(inside, s.uniform(0.3, 0.5), s.uniform(0.3, 0.5)))
    return c.layered(c.dark_colour(s), (gap, c.ramp(s, lattice(cell, s.seed()), 5)))


@family
def brick_wall(s: Sketch) -> Colour:
    p = stretched(tiles(s, 2.0, 5.0), 0.5, 1.0)
    inside, cell = brick_tiled(p, s.uniform(0.2, 0.5))
    brick = shapes.filled(shapes.box(stretched(inside, 2.0, 1.0), 0.93, 0.43), 0.06)
    grain = 0.7 + 0.5 * cloud(scaled(p, 5.0), s.seed(), 3)
    clay = c.dimmed(c.duotone(s, lattice(cell, s.seed())), grain)
    return c.layered(c.light_colour(s), (brick, clay))


@family
def hexagons(s: Sketch) -> Colour:
    inside, middle = hex_tiled(tiles(s))
    edge = 0.5 - shapes.polygon(rotated(inside, math.pi / 6), 6.0, 0.0)
    number = lattice(Point(floor(middle.x * 2.0 + 0.5), floor(middle.y * 1.1547 + 0.5)), s.seed())
    return c.layered(c.dark_colour(s), (smoothstep(0.02, 0.1, edge), c.family_colours(s, number)))


@family
def hexagon_rings(s: Sketch) -> Colour:
    inside, middle = hex_tiled(tiles(s, 1.0, 3.0))
    distance = shapes.polygon(rotated(inside, math.pi / 6), 6.0, 0.0)
    return c.cosine_palette(s, wave(distance * s.integer(2, 6) + 0.3 * middle.x))


@family
def truchet_arcs(s: Sketch) -> Colour:
    inside, cell = tiled(tiles(s))
    flip = less(lattice(cell, s.seed()), 0.5)
    q = Point(select(flip, inside.x, -inside.x), inside.y)
    distance = minimum(length(moved(q, 0.5, 0.5)), length(moved(q, -0.5, -0.5)))
    band = shapes.outline(distance - 0.5, s.uniform(0.06, 0.25), 0.05)
    return c.layered(c.random_colour(s), (band, c.random_colour(s)))


@family
def slanted_maze(s: Sketch) -> Colour:
    inside, cell = tiled(tiles(s, 2.0, 6.0))
    flip = less(lattice(cell, s.seed()), s.uniform(0.3, 0.7))
    across = absolute(inside.y - select(flip, inside.x, -inside.x))
    wall = minimum(across, 1.0 - across)
    return c.layered(c.duotone(s, s.point.y * 0.5 + 0.5), (shapes.filled(wall - s.uniform(0.1, 0.3), 0.08), c.random_colour(s)))


@family
def truchet_triangles(s: Sketch) -> Colour:
    inside, cell = tiled(tiles(s))
    turn = floor(lattice(cell, s.seed()) * 4.0) * (math.pi / 2)
    q = rotated(inside, turn)
    return c.blended(c.random_colour(s), c.random_colour(s), shapes.filled(q.x + q.y))


@family
def polka_dots(s: Sketch) -> Colour:
    inside, cell = brick_tiled(tiles(s))
    dot_ = shapes.filled(shapes.circle(inside, s.uniform(0.15, 0.45)), 0.06)
    return c.layered(c.random_colour(s), (dot_, c.ramp(s, lattice(cell, s.seed()), 3)))


@family
def dots_of_many_sizes(s: Sketch) -> Colour:
    p = tiles(s, 2.0, 6.0)
    inside, cell = tiled(p)
    size = 0.05 + 0.45 * cloud(scaled(cell, s.uniform(0.1, 0.4)), s.seed(), 2)
    return c.layered(c.duotone(s, p.x * 0.2), (shapes.filled(length(inside) - size, 0.06), c.random_colour(s)))


@family
def triangle_grid(s: Sketch) -> Colour:
    p = tiles(s)
    q = Point(p.x + p.y * (1 / math.sqrt(3.0)), p.y * (2 / math.sqrt(3.0)))
    inside, cell = tiled(q)
    upper = less(inside.x, inside.y)
    number = lattice(Point(cell.x * 2.0 + upper, cell.y), s.seed())
    return c.ramp(s, number, 4)


@family
def woven_cloth(s: Sketch) -> Colour:
    over, height = weave(tiles(s, 2.5, 7.0))
    threads = c.blended(c.random_colour(s), c.random_colour(s), over)
    return c.dimmed(threads, 0.3 + 0.8 * height)


@family
def basket_weave(s: Sketch) -> Colour:
    p, strands = tiles(s), s.integer(2, 4)
    over = checks(p)
    strand = triangle(select(over, p.x, p.y) * strands)
    return c.dimmed(c.blended(c.random_colour(s), c.random_colour(s), over * 0.5 + strand * 0.3), 0.3 + 0.9 * strand)


@family
def overlapping_scales(s: Sketch) -> Colour:
    p = tiles(s, 1.5, 4.0)
    best: Expr = p.x * 0.0
    for row in (1.0, 0.0, -1.0):
        y = p.y * 2.0
        line = floor(y) + row
        offset = (line % 2.0) * 0.5
        q = Point(fract(p.x + offset) - 0.5, (y - line) * 0.5 - 0.25)
        inside = less(length(q), 0.52)
        best = select(inside, length(q) + 0.0, best) if row != 1.0 else inside * length(q)
    return c.cosine_palette(s, wave(best * s.uniform(1.5, 5.0)))


@family
def tartan(s: Sketch) -> Colour:
    p = tiles(s, 1.0, 3.0)

    def warp(x: Expr) -> Expr:
        return 0.5 * less(fract(x), s.uniform(0.2, 0.6)) + 0.5 * less(fract(x * 2.0 + s.uniform(0, 1)), s.uniform(0.1, 0.3))

    twill = 0.85 + 0.15 * stripes((p.x + p.y) * 10.0)
    cloth = c.layered(c.random_colour(s), (warp(p.x) * 0.6, c.random_colour(s)), (warp(p.y) * 0.6, c.random_colour(s)))
    return c.dimmed(cloth, twill)


@family
def facade_with_windows(s: Sketch) -> Colour:
    p = stretched(tiles(s, 2.0, 5.0), 1.0, s.uniform(0.6, 1.2))
    inside, cell = tiled(p)
    window = shapes.filled(shapes.box(inside, s.uniform(0.2, 0.4), s.uniform(0.2, 0.4)), 0.04)
    lit = less(lattice(cell, s.seed()), s.uniform(0.2, 0.8))
    panes = c.blended(c.dark_colour(s), c.light_colour(s), lit)
    bars = minimum(absolute(inside.x), absolute(inside.y))
    return c.layered(c.duotone(s, p.y * 0.1 + 0.5), (window, panes), (window * less(bars, 0.04), c.dark_colour(s)))


@family
def argyle(s: Sketch) -> Colour:
    p = stretched(tiles(s, 1.5, 3.5), 1.0, s.uniform(0.5, 0.9))
    slanted = Point(p.x + p.y, p.x - p.y)
    inside, _ = tiled(slanted)
    line = shapes.filled(minimum(absolute(inside.x), absolute(inside.y)) - 0.02)
    ground = c.blended(c.random_colour(s), c.random_colour(s), checks(slanted))
    return c.layered(ground, (line, c.light_colour(s)))


@family
def octagons_and_squares(s: Sketch) -> Colour:
    inside, cell = tiled(tiles(s))
    corner = Point(0.5 - absolute(inside.x), 0.5 - absolute(inside.y))
    small = shapes.filled(corner.x + corner.y - s.uniform(0.2, 0.4))
    grout = shapes.filled(absolute(corner.x + corner.y - 0.3) - 0.02) + less(minimum(corner.x, corner.y), 0.03)
    ground = c.layered(c.ramp(s, lattice(cell, s.seed()), 3), (small, c.random_colour(s)))
    return c.layered(ground, (grout, c.light_colour(s)))


@family
def pinwheels(s: Sketch) -> Colour:
    inside, cell = tiled(tiles(s, 1.0, 3.0))
    q = rotated(inside, lattice(cell, s.seed()) * 6.28)
    blade = less(0.0, q.x * q.y) * 0.5 + less(absolute(q.y), absolute(q.x)) * 0.5
    return c.layered(c.light_colour(s), (shapes.filled(length(inside) - 0.46), c.bands(s, blade + 0.1, 3)))


@family
def herringbone(s: Sketch) -> Colour:
    p = tiles(s, 1.5, 4.0)
    ribs = floor(p.x)
    slope = select(ribs % 2.0, 1.0, -1.0)
    y = (p.y + fract(p.x) * slope) * s.uniform(1.5, 3.0)
    plank = lattice(Point(ribs, floor(y)), s.seed())
    line = minimum(triangle(y), triangle(p.x) * 2.0)
    return c.dimmed(c.family_colours(s, plank), smoothstep(0.0, 0.15, line))


@family
def chevrons(s: Sketch) -> Colour:
    p = tiles(s, 1.0, 3.0)
    height = p.y + triangle(p.x) * s.uniform(0.3, 1.2)
    return c.bands(s, fract(height * s.uniform(0.5, 1.5)), 4)


@family
def jigsaw(s: Sketch) -> Colour:
    p = tiles(s, 1.5, 3.0)
    seed = s.seed()
    inside, cell = tiled(p)
    knobs = []
    for sideways in (True, False):
        along, across = (inside.y, inside.x) if sideways else (inside.x, inside.y)
        for sign_ in (0.5, -0.5):
            edge = Point(cell.x + (sign_ + 0.5), cell.y) if sideways else Point(cell.x + 71.0, cell.y + (sign_ + 0.5))
            out = select(less(lattice(edge, seed), 0.5), 0.12, -0.12)
            knobs.append(length(Point(along, across - sign_ - out)) - 0.13)
    bumps = shapes.filled(minimum(*knobs), 0.03)
    piece = lattice(cell, s.seed())
    return c.layered(c.family_colours(s, piece), (bumps, c.family_colours(s, fract(piece + 0.43))))


@family
def random_shape_tiles(s: Sketch) -> Colour:
    inside, cell = tiled(tiles(s, 1.2, 3.0))
    kind = lattice(cell, s.seed())
    q = rotated(inside, lattice(cell, s.seed()) * 6.28)
    shape = select(less(kind, 0.25), shapes.circle(q, 0.3), shapes.box(q, 0.3, 0.2))
    shape = select(less(0.5, kind), shapes.star(q, 5.0, 0.45, 0.5), shape)
    shape = select(less(0.75, kind), shapes.cross(q, 0.38, 0.1), shape)
    return c.layered(c.random_colour(s), (shapes.filled(shape, 0.04), c.spread_numbers(s, kind)))


@family
def stained_squares_wobbling(s: Sketch) -> Colour:
    p = wobbled(tiles(s, 1.5, 3.5), s.uniform(0.1, 0.4), s.uniform(1.0, 4.0), s.angle())
    inside, cell = tiled(p)
    edge = 0.5 - maximum(absolute(inside.x), absolute(inside.y))
    return c.dimmed(c.spread_numbers(s, lattice(cell, s.seed())), smoothstep(0.0, 0.12, edge))


@family
def mirror_tiled_noise(s: Sketch) -> Colour:
    p = mirror_tiled(tiles(s, 1.0, 3.0))
    return c.ramp(s, cloud(scaled(p, s.uniform(1.0, 4.0)), s.seed(), 3), 4)


@family
def cobblestones(s: Sketch) -> Colour:
    p = noise_warped(tiles(s, 2.0, 4.0), 0.15, s.seed(), 1.5)
    inside, cell = brick_tiled(p)
    stone = shapes.box(inside, 0.36, 0.36) - 0.06
    bulge = clamp(-stone * 3.0)
    return c.layered(
        c.dark_colour(s), (shapes.filled(stone, 0.06), c.dimmed(c.duotone(s, lattice(cell, s.seed())), 0.5 + 0.6 * bulge))
    )


@family
def folded_paper_grid(s: Sketch) -> Colour:
    p = tiles(s, 1.0, 3.0)
    inside, cell = tiled(p)
    facing = select(
        less(absolute(inside.y), absolute(inside.x)),
        select(less(inside.x, 0.0), 0.3, 0.8),
        select(less(inside.y, 0.0), 0.55, 1.0),
    )
    return c.dimmed(c.duotone(s, lattice(cell, s.seed())), facing)


@family
def tumbling_cubes(s: Sketch) -> Colour:
    inside, middle = hex_tiled(tiles(s, 1.0, 3.0))
    q = rotated(inside, math.pi / 6)
    third = fract(atan_turn(q) + s.uniform(0, 1)) * 3.0
    number = lattice(Point(floor(middle.x * 2.0 + 0.5), floor(middle.y * 1.1547 + 0.5)), s.seed())
    return c.dimmed(c.ramp(s, number * 0.6 + 0.2, 3), 0.4 + 0.3 * floor(third))


def atan_turn(p: Point) -> Expr:
    """The angle in turns."""
    from raydfkd.synthesis.procedural.shaders.coordinates import polar

    return polar(p).y


@family
def greek_steps(s: Sketch) -> Colour:
    inside, _ = tiled(tiles(s, 0.8, 2.0))
    radius = maximum(absolute(inside.x), absolute(inside.y)) * 2.0
    turn = atan_turn(inside)
    step = floor(radius * s.integer(3, 6) + turn)
    return c.blended(c.random_colour(s), c.random_colour(s), step % 2.0)


@family
def dotted_quilt(s: Sketch) -> Colour:
    p = tiles(s, 1.0, 2.5)
    slanted = rotated(p, math.pi / 4)
    inside, cell = tiled(slanted)
    seam = smoothstep(0.0, 0.5, 0.5 - maximum(absolute(inside.x), absolute(inside.y)))
    button = shapes.filled(dot(inside, inside) - 0.01, 0.01)
    print_ = stripes(fbm(scaled(p, 3.0), s.seed(), 2) * 3.0 + lattice(cell, s.seed()) * 5.0)
    return c.layered(c.dimmed(c.cosine_palette(s, print_), 0.3 + 0.8 * seam), (button, c.light_colour(s)))
