"""The library of program families by name."""

from __future__ import annotations

from functools import cache

from raydfkd.registry import Registry
from raydfkd.synthesis.procedural.shaders.sketch import Family, Program, compile_family

FAMILIES: Registry[Family] = Registry("shader family")


def family(function: Family) -> Family:
    """Registers a family under its function's name."""
    return FAMILIES.register(function.__name__)(function)


def family_names() -> list[str]:
    """Every family, sorted."""
    import raydfkd.synthesis.procedural.shaders.families  # noqa: F401  registers them

    return FAMILIES.names()


@cache
def program(name: str) -> Program:
    """A family, compiled.

    Raises:
        UnknownNameError: there is no such family.
    """
    family_names()
    return compile_family(name, FAMILIES.get(name))
