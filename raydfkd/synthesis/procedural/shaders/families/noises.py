"""Natural-looking textures made of smooth noise: clouds, stone, wood, terrain, hides, smoke."""

from __future__ import annotations

from raydfkd.synthesis.procedural.shaders import colours as c
from raydfkd.synthesis.procedural.shaders.coordinates import (
    moved,
    noise_warped,
    polar,
    rotated,
    scaled,
    stretched,
    swirled,
    view,
)
from raydfkd.synthesis.procedural.shaders.expression import Colour, Expr, Point
from raydfkd.synthesis.procedural.shaders.fields import (
    cloud,
    fbm,
    ridges,
    slope,
    steps,
    stripes,
    turbulence,
    value_cloud,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.functions import (
    absolute,
    atan2,
    bell,
    clamp,
    cos,
    fract,
    gradient_noise,
    lattice,
    length,
    less,
    maximum,
    mix,
    sin,
    smoothstep,
    value_noise,
    wave,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.shader_catalog import family
from raydfkd.synthesis.procedural.shaders.sketch import Sketch


def ground(s: Sketch, fewest: float = 1.0, most: float = 4.0) -> Point:
    """The plane, turned and moved far off, with that many features of a noise from its middle to its edge."""
    return scaled(view(s, 0.9, 1.1, 20.0), s.log_uniform(fewest, most))


@family
def clouds(s: Sketch) -> Colour:
    density = smoothstep(0.3, 0.8, cloud(ground(s), s.seed(), 5, s.uniform(0.4, 0.65)))
    return c.blended(c.duotone(s, s.point.y * 0.5 + 0.5), c.light_colour(s), density)


@family
def marble(s: Sketch) -> Colour:
    p = ground(s, 0.7, 2.0)
    vein = absolute(sin(p.x * s.uniform(1.0, 4.0) + fbm(p, s.seed(), 5) * s.uniform(2.0, 8.0)))
    return c.dark_to_light(s, vein ** s.uniform(0.3, 1.0))


@family
def wood_grain(s: Sketch) -> Colour:
    p = noise_warped(stretched(ground(s, 0.6, 1.5), 1.0, 0.15), s.uniform(0.1, 0.4), s.seed())
    ring = fract(length(Point(p.x + 30.0, p.y)) * s.uniform(2.0, 6.0))
    fibre = gradient_noise(stretched(p, 40.0, 3.0), s.seed()) * 0.1
    return c.duotone(s, ring * 0.8 + fibre)


@family
def mountains_from_above(s: Sketch) -> Colour:
    p, seed = ground(s, 0.7, 2.0), s.seed()
    height, along_x, along_y = slope(lambda q: ridges(q, seed, 4), p, 0.03)
    return c.shaded(s, c.ramp(s, height, 4), along_x * 0.7, along_y * 0.7, 0.1)


@family
def flames(s: Sketch) -> Colour:
    p = Point(s.point.x * s.uniform(1.5, 4.0), s.point.y * s.uniform(0.6, 1.5) + s.uniform(0, 50))
    licks = turbulence(noise_warped(p, 0.5, s.seed()), s.seed(), 4)
    return c.fire(s, (1.0 - licks) * 1.2 - (s.point.y + 1.0) * s.uniform(0.2, 0.5))


@family
def warped_noise(s: Sketch) -> Colour:
    p = noise_warped(ground(s, 0.6, 2.0), s.uniform(0.6, 2.0), s.seed())
    return c.cosine_palette(s, cloud(p, s.seed(), 3))


@family
def twice_warped_noise(s: Sketch) -> Colour:
    p = ground(s, 0.6, 1.5)
    first = noise_warped(p, 1.0, s.seed())
    second = noise_warped(first, s.uniform(0.8, 2.0), s.seed())
    bent = length(Point(second.x - p.x, second.y - p.y))
    return c.blended(c.ramp(s, cloud(second, s.seed(), 3), 4), c.random_colour(s), clamp(bent * 0.4))


@family
def contour_map(s: Sketch) -> Colour:
    height = cloud(ground(s, 0.7, 2.0), s.seed(), 3)
    line = absolute(fract(height * s.integer(5, 14)) - 0.5)
    return c.layered(c.ramp(s, height, 3), (smoothstep(0.12, 0.04, line), c.dark_colour(s)))


@family
def stepped_terrain(s: Sketch) -> Colour:
    height = cloud(ground(s, 0.6, 1.8), s.seed(), 4)
    return c.bands(s, height * 1.4 - 0.2, 6)


@family
def coast_line(s: Sketch) -> Colour:
    p, seed = ground(s, 0.7, 2.0), s.seed()
    height, along_x, along_y = slope(lambda q: cloud(q, seed, 5, 0.55), p, 0.04)
    land = less(s.uniform(0.4, 0.6), height)
    relief = c.shaded(s, c.ramp(s, height * 2.0 - 0.8, 3), along_x, along_y, 0.0)
    return c.blended(c.duotone(s, height * 2.0), relief, land)


@family
def camouflage(s: Sketch) -> Colour:
    found = c.random_colour(s)
    for _ in range(4):
        patch = less(0.56, value_cloud(ground(s, 1.0, 2.5), s.seed(), 3))
        found = c.layered(found, (patch, c.random_colour(s)))
    return found


@family
def fibres(s: Sketch) -> Colour:
    p = stretched(ground(s, 1.0, 2.0), s.uniform(6.0, 16.0), s.uniform(0.3, 1.0))
    return c.dark_to_light(s, cloud(p, s.seed(), 3, 0.7))


@family
def brushed_swirls(s: Sketch) -> Colour:
    p = ground(s, 0.6, 1.5)
    direction = fbm(p, s.seed(), 2) * 4.0
    along = rotated(p, direction)
    strokes = value_noise(stretched(along, s.uniform(8.0, 20.0), 1.0), s.seed())
    return c.dimmed(c.cosine_palette(s, direction * 0.2), 0.4 + 0.8 * strokes)


@family
def granite(s: Sketch) -> Colour:
    p = ground(s, 4.0, 10.0)
    found = c.duotone(s, cloud(p, s.seed(), 3))
    for _ in range(3):
        speck = smoothstep(0.6, 0.75, value_noise(scaled(p, s.uniform(0.7, 2.0)), s.seed()))
        found = c.layered(found, (speck, c.random_colour(s)))
    return found


@family
def animal_spots(s: Sketch) -> Colour:
    noise = gradient_noise(noise_warped(ground(s, 2.0, 5.0), 0.4, s.seed()), s.seed())
    spot = smoothstep(0.12, 0.2, noise - s.uniform(-0.1, 0.2))
    return c.layered(c.duotone(s, cloud(s.point, s.seed(), 2)), (spot, c.dark_colour(s)))


@family
def rosettes(s: Sketch) -> Colour:
    noise = gradient_noise(ground(s, 2.0, 4.0), s.seed())
    rim = bell(noise - s.uniform(0.1, 0.3), 0.1)
    middle = smoothstep(0.3, 0.4, noise)
    return c.layered(c.light_colour(s), (middle * 0.7, c.random_colour(s)), (rim, c.dark_colour(s)))


@family
def labyrinth_hide(s: Sketch) -> Colour:
    p = ground(s, 1.0, 2.5)
    direction = fbm(p, s.seed(), 2) * s.uniform(3.0, 7.0)
    band = stripes(direction + gradient_noise(scaled(p, 3.0), s.seed()) * 0.8, s.uniform(3.0, 10.0))
    return c.blended(c.random_colour(s), c.random_colour(s), band)


@family
def zebra(s: Sketch) -> Colour:
    p = ground(s, 0.6, 1.5)
    band = stripes((p.x + fbm(p, s.seed(), 3) * s.uniform(0.5, 1.5)) * s.uniform(1.5, 4.0), s.uniform(4.0, 12.0))
    return c.blended(c.dark_colour(s), c.light_colour(s), band)


@family
def smoke_rings(s: Sketch) -> Colour:
    p = noise_warped(view(s), s.uniform(0.2, 0.6), s.seed(), 2.0)
    ring = bell(length(p) - s.uniform(0.3, 0.8), s.uniform(0.08, 0.3))
    return c.blended(c.dark_colour(s), c.light_colour(s), ring * (0.3 + cloud(scaled(p, 3.0), s.seed(), 3)))


@family
def blocky_noise(s: Sketch) -> Colour:
    p = ground(s, 2.0, 5.0)
    value = lattice(p, s.seed()) * 0.5 + lattice(scaled(p, 2.0), s.seed()) * 0.3 + lattice(scaled(p, 4.0), s.seed()) * 0.2
    return c.ramp(s, value, 4)


@family
def split_quadtree(s: Sketch) -> Colour:
    p, found = ground(s, 0.7, 1.2), c.spread_numbers(s, lattice(ground(s), s.seed()))
    inside: Expr = s.point.x * 0.0 + 1.0
    for level in range(4):
        q = scaled(p, 2.0**level)
        inside = inside * less(lattice(q, s.seed()), 0.72)
        found = c.blended(found, c.ramp(s, lattice(q, s.seed()), 3), inside)
    return found


@family
def coloured_static(s: Sketch) -> Colour:
    p = ground(s, 5.0, 16.0)
    channels = [mix(0.5, lattice(p, s.seed()), s.uniform(0.4, 1.0)) for _ in range(3)]
    return c.three_channels(*channels)


@family
def three_soft_channels(s: Sketch) -> Colour:
    channels = [cloud(ground(s, 0.5, 3.0), s.seed(), 3) for _ in range(3)]
    return c.three_channels(*channels)


@family
def noise_in_rings(s: Sketch) -> Colour:
    radius, turn = polar(view(s, shift=0.3))
    q = Point(radius * s.uniform(2.0, 8.0), cos(turn * 6.283) * s.uniform(0.2, 1.0))
    return c.cosine_palette(s, cloud(moved(q, s.uniform(0, 30), 0.0), s.seed(), 4))


@family
def sponge(s: Sketch) -> Colour:
    p = ground(s, 1.5, 3.0)
    hole = smoothstep(0.35, 0.15, turbulence(p, s.seed(), 2))
    return c.layered(c.duotone(s, cloud(scaled(p, 2.0), s.seed(), 3)), (hole, c.dark_colour(s)))


@family
def lightning_veins(s: Sketch) -> Colour:
    p = noise_warped(ground(s, 0.6, 1.6), 0.5, s.seed(), 2.0)
    vein = ridges(p, s.seed(), 5, 0.6) ** s.uniform(2.0, 6.0)
    return c.screened(c.dark_colour(s), c.tinted(vein * 1.6, c.light_colour(s)))


@family
def crumpled_foil(s: Sketch) -> Colour:
    p, seed = ground(s, 1.0, 3.0), s.seed()
    _, along_x, along_y = slope(lambda q: turbulence(q, seed, 3), p, 0.02)
    return c.shaded(s, c.random_colour(s), along_x * 1.5, along_y * 1.5, 1.0)


@family
def dunes(s: Sketch) -> Colour:
    p, seed, pitch = ground(s, 0.7, 1.6), s.seed(), s.uniform(0.8, 2.0)

    def height(q: Point) -> Expr:
        saw = fract(q.x * pitch + fbm(q, seed, 2) * 0.8)
        return maximum(saw * 0.7, 1.0 - saw * 4.0)

    value, along_x, along_y = slope(height, p, 0.02)
    return c.shaded(s, c.duotone(s, value), along_x * 0.4, along_y * 0.4, 0.1)


@family
def oil_film(s: Sketch) -> Colour:
    p = swirled(noise_warped(ground(s, 0.5, 1.2), 1.2, s.seed()), s.uniform(-0.5, 0.5), 2.0)
    thickness = cloud(p, s.seed(), 3) * s.uniform(1.5, 4.0)
    return c.hue(thickness, s.uniform(0.4, 0.9), 0.4 + 0.6 * wave(thickness * 0.7))


@family
def gradient_direction_colours(s: Sketch) -> Colour:
    p, seed = ground(s, 0.7, 2.0), s.seed()
    _, along_x, along_y = slope(lambda q: fbm(q, seed, 3), p, 0.05)
    return c.hue(atan2(along_y, along_x) / 6.283 + s.uniform(0, 1), s.uniform(0.3, 1.0), s.uniform(0.7, 1.0))


@family
def frosted_steps(s: Sketch) -> Colour:
    p = ground(s, 0.6, 2.0)
    jitter = lattice(scaled(p, 30.0), s.seed()) - 0.5
    return c.ramp(s, steps(cloud(p, s.seed(), 2) + jitter * s.uniform(0.05, 0.25), 5.0), 4)
