"""The program families, by kind. Importing this registers all of them in ``catalog.FAMILIES``."""

from raydfkd.synthesis.procedural.shaders.families import (  # noqa: F401
    cellular,
    conformal,
    fractals,
    geometric,
    marks,
    noises,
    radial,
    scenes,
    solids,
    tilings,
    waves,
)
