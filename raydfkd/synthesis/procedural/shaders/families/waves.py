"""Sines: interference, moire, plasmas, standing waves, ripples, traces."""

from __future__ import annotations

from raydfkd.synthesis.procedural.shaders import colours as c
from raydfkd.synthesis.procedural.shaders import shapes
from raydfkd.synthesis.procedural.shaders.coordinates import moved, noise_warped, rotated, scaled, stretched, view, wobbled
from raydfkd.synthesis.procedural.shaders.expression import Colour, Expr, Point
from raydfkd.synthesis.procedural.shaders.fields import (
    away_from,
    fbm,
    lissajous_distance,
    plasma,
    points,
    quasicrystal,
    random_wave,
    rings,
    ripple,
    slope,
    stripes,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.functions import (
    TAU,
    absolute,
    angle_of,
    bell,
    clamp,
    cos,
    dot,
    exp,
    floor,
    fract,
    gradient_noise,
    length,
    less,
    log,
    maximum,
    sin,
    total,
    triangle,
    wave,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.shader_catalog import family
from raydfkd.synthesis.procedural.shaders.sketch import Sketch


@family
def plasma_colours(s: Sketch) -> Colour:
    return c.cosine_palette(s, plasma(s, view(s), 4) + 0.5)


@family
def plasma_three_channels(s: Sketch) -> Colour:
    p = view(s)
    return c.three_channels(*(0.5 + 0.8 * plasma(s, p, 3, 1.0, 6.0) for _ in range(3)))


@family
def moire_rings(s: Sketch) -> Colour:
    first, second = points(s, 2, 0.5)
    frequency = s.uniform(4.0, 9.0)
    a = rings(away_from(s.point, first), frequency)
    b = rings(away_from(s.point, second), frequency * s.uniform(0.85, 1.15))
    return c.two_of(s, clamp(a * 4.0 - 1.5), clamp(b * 4.0 - 1.5))


@family
def moire_gratings(s: Sketch) -> Colour:
    p, frequency, angle = view(s), s.uniform(4.0, 9.0), s.uniform(0.05, 0.4)
    a, b = stripes(p.x * frequency, 6.0), stripes(rotated(p, angle).x * frequency, 6.0)
    return c.blended(c.random_colour(s), c.random_colour(s), absolute(a - b))


@family
def wave_sources(s: Sketch) -> Colour:
    frequency = s.uniform(8.0, 25.0)
    height = total([ripple(s.point, centre, frequency, s.angle(), 0.5) for centre in points(s, 4, 1.2)])
    return c.ramp(s, height * 0.25 + 0.5, 4)


@family
def quasicrystal_of_five(s: Sketch) -> Colour:
    return c.cosine_palette(s, quasicrystal(view(s, shift=3.0), 5, s.uniform(1.5, 4.0)) * 1.5)


@family
def quasicrystal_of_seven_in_steps(s: Sketch) -> Colour:
    value = quasicrystal(view(s, shift=3.0), 7, s.uniform(1.5, 4.0))
    return c.bands(s, triangle(value * s.uniform(1.5, 3.5)), 4)


@family
def drum_modes(s: Sketch) -> Colour:
    p = scaled(view(s, 0.8, 1.2), 3.1)
    m, n, k, q = (s.integer(1, 5) for _ in range(4))
    value = cos(p.x * m * 0.5) * cos(p.y * n * 0.5) + s.uniform(-1, 1) * cos(p.x * k * 0.5) * cos(p.y * q * 0.5)
    return c.ramp(s, value * 0.3 + 0.5, 5)


@family
def sand_on_a_plate(s: Sketch) -> Colour:
    p = scaled(view(s, 0.8, 1.2), 3.1)
    m, n = s.integer(2, 6), s.integer(1, 5)
    value = cos(p.x * m * 0.5) * cos(p.y * n * 0.5) - cos(p.x * n * 0.5) * cos(p.y * m * 0.5 + 0.2)
    grain = gradient_noise(scaled(p, 14.0), s.seed()) * 0.15
    return c.blended(c.dark_colour(s), c.light_colour(s), bell(value + grain, s.uniform(0.1, 0.3)))


@family
def pond_ripples(s: Sketch) -> Colour:
    centres, frequency = points(s, 3, 0.9), s.uniform(8.0, 20.0)
    phases = [s.angle() for _ in centres]

    def height(p: Point) -> Expr:
        return total([ripple(p, centre, frequency, phase, 2.0) for centre, phase in zip(centres, phases, strict=True)])

    _, along_x, along_y = slope(height, s.point, 0.02)
    return c.shaded(s, c.duotone(s, s.point.y * 0.5 + 0.5), along_x * 0.12, along_y * 0.12, 0.8)


@family
def wobbly_stripes(s: Sketch) -> Colour:
    p = wobbled(view(s), s.uniform(0.1, 0.5), s.uniform(2.0, 8.0), s.angle())
    return c.bands(s, fract(p.x * s.uniform(1.0, 3.0)), 4)


@family
def straight_stripes(s: Sketch) -> Colour:
    p = view(s)
    frequency = s.log_uniform(0.8, 6.0)
    return c.blended(c.duotone(s, p.y * 0.5 + 0.5), c.random_colour(s), stripes(p.x * frequency, s.uniform(1.0, 12.0)))


@family
def barcode(s: Sketch) -> Colour:
    p = scaled(view(s), s.uniform(3.0, 10.0))
    bar = less(fract(sin(floor(p.x) * 12.9898) * 437.5 + s.uniform(0, 1)), 0.5)
    frame = shapes.filled(absolute(p.y) - s.uniform(2.0, 6.0))
    return c.blended(c.light_colour(s), c.dark_colour(s), bar * frame)


@family
def chirp(s: Sketch) -> Colour:
    p = view(s, shift=1.0)
    return c.duotone(s, wave((p.x + 1.5) * (p.x + 1.5) * s.uniform(0.5, 2.0) + p.y * s.uniform(-1, 1)))


@family
def zone_plate(s: Sketch) -> Colour:
    p = view(s, shift=0.8)
    q = stretched(p, 1.0, s.uniform(0.3, 1.5))
    return c.cosine_palette(s, wave((q.x * q.x + q.y * q.y * (s.coin() * 2.0 - 1.0)) * s.uniform(1.5, 5.0)))


@family
def hyperbolic_checks(s: Sketch) -> Colour:
    p = view(s, shift=0.4)
    value = sin(p.x * p.y * s.uniform(3.0, 12.0)) * cos((p.x * p.x - p.y * p.y) * s.uniform(3.0, 12.0))
    return c.blended(c.random_colour(s), c.random_colour(s), clamp(value * 4.0 + 0.5))


@family
def phase_modulated_waves(s: Sketch) -> Colour:
    p = view(s)
    inner = random_wave(s, p, 1.0, 5.0)
    middle = sin(p.y * s.uniform(1.0, 5.0) + inner * s.uniform(1.0, 4.0))
    return c.ramp(s, wave(p.x * s.uniform(0.3, 1.5) + middle * s.uniform(0.2, 0.8)), 4)


@family
def egg_crate(s: Sketch) -> Colour:
    p = scaled(view(s), s.uniform(2.0, 7.0))
    value = sin(p.x) * sin(p.y)
    lit = c.shaded(s, c.random_colour(s), cos(p.x) * sin(p.y) * 1.2, sin(p.x) * cos(p.y) * 1.2, 0.6)
    return c.dimmed(lit, 0.7 + 0.3 * value)


@family
def light_caustics(s: Sketch) -> Colour:
    p = scaled(view(s), s.uniform(1.5, 4.0))
    for turn in (0.7, 2.1, 3.9):
        q = rotated(p, turn)
        p = moved(p, sin(q.y * 1.7 + s.angle()) * 0.6, cos(q.x * 1.9 + s.angle()) * 0.6)
    thin = absolute(sin(p.x) + cos(p.y)) * 0.5
    light = exp(-thin * s.uniform(5.0, 12.0))
    return c.screened(c.duotone(s, s.point.y * 0.5 + 0.5), c.tinted(light, c.light_colour(s)))


@family
def oscilloscope(s: Sketch) -> Colour:
    p = view(s, shift=0.2)
    found = c.dark_colour(s)
    for _ in range(3):
        trace = sin(p.x * s.uniform(2, 10) + s.angle()) * s.uniform(0.1, 0.4) + sin(p.x * s.uniform(8, 20)) * s.uniform(
            0.02, 0.15
        )
        glow = shapes.glow((p.y - trace - s.uniform(-0.5, 0.5)) * 0.7, s.uniform(0.02, 0.06))
        found = c.screened(found, c.tinted(glow, c.light_colour(s)))
    return found


@family
def stacked_ridge_lines(s: Sketch) -> Colour:
    found, ink, paper = c.dark_colour(s), c.light_colour(s), c.dark_colour(s)
    seed, rate, height = s.seed(), s.uniform(2.0, 5.0), s.uniform(0.3, 0.7)
    for row in range(8):  # from the farthest to the nearest
        base = 0.75 - row * 0.22
        bump = (fbm(Point(s.point.x * rate, s.point.x * 0.0 + row * 3.7), seed, 3) + 0.5) * height * bell(s.point.x, 0.6)
        above = s.point.y - base - bump
        found = c.layered(found, (shapes.filled(above), paper), (shapes.filled(absolute(above) - 0.02, 0.02), ink))
    return found


@family
def lissajous_loop(s: Sketch) -> Colour:
    distance = lissajous_distance(s, view(s, 0.9, 1.3, 0.1))
    return c.ramp(s, exp(-distance * s.uniform(3.0, 9.0)), 4)


@family
def standing_polygon_waves(s: Sketch) -> Colour:
    p, folds = view(s), s.integer(3, 6)
    value = total([cos(rotated(p, k * TAU / 6).x * s.uniform(4.0, 12.0) * (1.0 + 0.1 * folds)) for k in range(3)])
    return c.fire(s, value * 0.2 + 0.5)


@family
def double_slit(s: Sketch) -> Colour:
    p, gap, frequency = moved(s.point, 0.0, 1.2), s.uniform(0.2, 0.6), s.uniform(8.0, 20.0)
    left, right = length(moved(p, gap, 0.0)), length(moved(p, -gap, 0.0))
    amplitude = cos((left - right) * frequency * 0.5) * cos((left + right) * frequency * 0.5 + s.angle())
    return c.dark_to_light(s, amplitude * 0.5 + 0.5)


@family
def sawtooth_interference(s: Sketch) -> Colour:
    p = view(s)
    value = (
        fract(rotated(p, s.angle()).x * s.uniform(1, 3))
        + fract(rotated(p, s.angle()).x * s.uniform(1, 3))
        + fract(length(p) * 2.0)
    )
    return c.ramp(s, fract(value * s.uniform(0.4, 1.0)), 4)


@family
def tangled_field_lines(s: Sketch) -> Colour:
    p = noise_warped(view(s), s.uniform(0.3, 0.8), s.seed(), 1.5)
    phase = total(
        [angle_of(away_from(p, centre)) / TAU * (1.0 if k % 2 else -1.0) for k, centre in enumerate(points(s, 4, 0.8))]
    )
    return c.cosine_palette(s, stripes(phase * s.integer(4, 10), s.uniform(1.0, 4.0)))


@family
def equipotentials(s: Sketch) -> Colour:
    charges = points(s, 4, 0.9)
    value = total(
        [
            log(dot(away_from(s.point, q), away_from(s.point, q)) + 0.01) * (1.0 if k % 2 else -1.0)
            for k, q in enumerate(charges)
        ]
    )
    line = bell(fract(value * s.uniform(0.8, 2.0)) - 0.5, 0.15)
    return c.layered(c.duotone(s, value * 0.15 + 0.5), (line, c.random_colour(s)))


@family
def woven_sine_ribbons(s: Sketch) -> Colour:
    p = scaled(view(s), s.uniform(1.5, 4.0))
    upper, lower = sin(p.x * 1.57) * 0.3, -sin(p.x * 1.57) * 0.3
    y = fract(p.y * 0.7) * 1.6 - 0.8
    front, back = absolute(y - upper) - 0.16, absolute(y - lower) - 0.16
    over = less(0.0, cos(p.x * 1.57))
    top = c.layered(
        c.random_colour(s),
        (shapes.filled(back), c.random_colour(s)),
        (shapes.filled(maximum(front, -over)), c.random_colour(s)),
    )
    return c.dimmed(top, 0.75 + 0.25 * cos(p.x * 3.14))
