"""From numbers to colours: palettes, mixing, and light on a relief. Each palette is drawn anew for every picture."""

from __future__ import annotations

from collections.abc import Callable

from raydfkd.synthesis.procedural.shaders.expression import Colour, Expr, constant
from raydfkd.synthesis.procedural.shaders.functions import (
    TAU,
    Number,
    absolute,
    clamp,
    cos,
    floor,
    fract,
    less,
    maximum,
    minimum,
    mix,
    select,
    sin,
    smoothstep,
    sqrt,
)  # fmt: skip
from raydfkd.synthesis.procedural.shaders.sketch import Sketch


def random_colour(s: Sketch) -> Colour:
    return Colour(s.uniform(0, 1), s.uniform(0, 1), s.uniform(0, 1))


def dark_colour(s: Sketch) -> Colour:
    return Colour(s.uniform(0, 0.35), s.uniform(0, 0.35), s.uniform(0, 0.35))


def light_colour(s: Sketch) -> Colour:
    return Colour(s.uniform(0.6, 1), s.uniform(0.6, 1), s.uniform(0.6, 1))


def grey(value: Expr) -> Colour:
    return Colour(value, value, value)


def tinted(value: Expr, colour: Colour) -> Colour:
    return Colour(value * colour.red, value * colour.green, value * colour.blue)


def blended(a: Colour, b: Colour, share: Expr) -> Colour:
    """a where the share is 0, b where it is 1."""
    return Colour(mix(a.red, b.red, share), mix(a.green, b.green, share), mix(a.blue, b.blue, share))


def added(a: Colour, b: Colour) -> Colour:
    return Colour(a.red + b.red, a.green + b.green, a.blue + b.blue)


def screened(a: Colour, b: Colour) -> Colour:
    """Light on light: never darker than either."""
    return Colour(*(1.0 - (1.0 - clamp(x)) * (1.0 - clamp(y)) for x, y in zip(a, b, strict=True)))


def difference(a: Colour, b: Colour) -> Colour:
    return Colour(*(absolute(x - y) for x, y in zip(a, b, strict=True)))


def dimmed(colour: Colour, by: Number) -> Colour:
    return Colour(*(channel * by for channel in colour))


def cosine_palette(s: Sketch, t: Expr) -> Colour:
    """a + b cos(2 pi (c t + d)) in each channel, the well-known cosine gradient; all of it random. t about in [0,1]."""
    channels = []
    for _ in range(3):
        middle, swing = s.uniform(0.35, 0.65), s.uniform(0.25, 0.5)
        channels.append(middle + swing * cos((t * s.uniform(0.4, 1.6) + s.uniform(0, 1)) * TAU))
    return Colour(*channels)


def duotone(s: Sketch, t: Expr) -> Colour:
    """From one random colour to another."""
    return blended(random_colour(s), random_colour(s), clamp(t))


def dark_to_light(s: Sketch, t: Expr) -> Colour:
    """From a dark colour to a light one, or the other way round."""
    t = clamp(t)
    return blended(dark_colour(s), light_colour(s), select(s.coin(), 1.0 - t, t))


def ramp(s: Sketch, t: Expr, colours: int = 4) -> Colour:
    """Through several random colours, t from 0 to 1."""
    found = random_colour(s)
    for step in range(1, colours):
        share = clamp(t * (colours - 1) - (step - 1))
        found = blended(found, random_colour(s), share)
    return found


def bands(s: Sketch, t: Expr, colours: int = 5) -> Colour:
    """One of several random colours, hard edges between them, t from 0 to 1."""
    found = random_colour(s)
    for step in range(1, colours):
        found = blended(found, random_colour(s), less(step / colours, t))
    return found


def hue(t: Expr, saturation: Number = 1.0, value: Number = 1.0) -> Colour:
    """The colour circle: t in turns."""
    channels = []
    for offset in (0.0, 2 / 3, 1 / 3):
        pure = clamp(absolute(fract(t + offset) * 6.0 - 3.0) - 1.0)
        channels.append((1.0 - (1.0 - pure) * saturation) * value)
    return Colour(*channels)


def rainbow(s: Sketch, t: Expr) -> Colour:
    """A random stretch of the colour circle."""
    return hue(t * s.uniform(0.4, 1.2) + s.uniform(0, 1), s.uniform(0.4, 1.0), s.uniform(0.7, 1.0))


def fire(s: Sketch, t: Expr) -> Colour:
    """Black, one colour, another, white: as heated metal in any colour."""
    t = clamp(t)
    powers = [s.uniform(0.5, 3.0) for _ in range(3)]
    return Colour(*(t**power for power in powers))


def spread_numbers(s: Sketch, number: Expr) -> Colour:
    """A colour for each random number in [0,1), neighbours unrelated."""
    seeds = [s.uniform(37.0, 91.0) for _ in range(3)]
    return Colour(*(fract(number * seed + 0.31 * k) for k, seed in enumerate(seeds)))


def family_colours(s: Sketch, number: Expr) -> Colour:
    """A colour for each number in [0,1), all from one random gradient, and of differing lightness."""
    base = ramp(s, number, 3)
    return dimmed(base, 0.6 + 0.5 * fract(number * 57.3))


Palette = Callable[[Sketch, Expr], Colour]


def shaded(s: Sketch, colour: Colour, slope_x: Expr, slope_y: Expr, gloss: float = 0.5) -> Colour:
    """Lit from a random side: diffuse and a highlight, on a relief of these slopes."""
    angle, height = s.angle(), s.uniform(0.4, 1.2)
    steepness = sqrt(slope_x * slope_x + slope_y * slope_y + 1.0)
    light = sqrt(height * height + 1.0)
    facing = (height - slope_x * cos(angle) - slope_y * sin(angle)) / (steepness * light)
    diffuse = maximum(facing, 0.0)
    highlight = (maximum(facing, 0.01) ** 24.0) * gloss
    lit = dimmed(colour, 0.25 + 0.9 * diffuse)
    return Colour(lit.red + highlight, lit.green + highlight, lit.blue + highlight)


def vignette(colour: Colour, distance: Expr, strength: Number) -> Colour:
    """Darker away from the middle."""
    return dimmed(colour, clamp(1.0 - distance * distance * strength))


def layered(background: Colour, *layers: tuple[Expr, Colour]) -> Colour:
    """Each layer (coverage in [0,1], its colour) laid over what is below."""
    found = background
    for coverage, colour in layers:
        found = blended(found, colour, clamp(coverage))
    return found


def two_of(s: Sketch, a: Expr, b: Expr) -> Colour:
    """Two fields as two inks: each takes away its own colour from paper."""
    paper, first, second = light_colour(s), random_colour(s), random_colour(s)
    return layered(paper, (clamp(a) * 0.85, first), (clamp(b) * 0.85, second))


def three_channels(red: Expr, green: Expr, blue: Expr) -> Colour:
    return Colour(red, green, blue)


def hatched(t: Expr, x: Expr, levels: int = 4) -> Expr:
    """A tone in [0,1] as black lines along x, the more the darker: 0 ink, 1 paper."""
    ink: Expr = constant(0.0)
    for level in range(1, levels + 1):
        line = smoothstep(0.35, 0.45, absolute(fract(x * level) - 0.5))
        ink = maximum(ink, line * less(t, 1.0 - level / (levels + 1)))
    return 1.0 - ink


def posterized(colour: Colour, levels: Number) -> Colour:
    return Colour(*(floor(clamp(channel) * levels + 0.5) / levels for channel in colour))


def opponent(a: Expr, b: Expr, lightness: Expr) -> Colour:
    """Two opponent axes (red-green, blue-yellow) and lightness; a and b about 0."""
    return Colour(lightness + a * 0.5, lightness - a * 0.5 + b * 0.15, lightness - b * 0.5)


def darker(a: Colour, b: Colour) -> Colour:
    return Colour(*(minimum(x, y) for x, y in zip(a, b, strict=True)))
