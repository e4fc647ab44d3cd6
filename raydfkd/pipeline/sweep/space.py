"""The values that a sweep tries for one setting: lists and ranges, how they are drawn, and what must be valid beforehand.

Imports neither torch nor ray.
"""

from __future__ import annotations

import math
import random
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

GOLDEN = 0.381966
"""Interior point at which a range is validated: not round, so that a continuous range on an integer setting is rejected."""

PERTURBATIONS = (0.8, 1.2)
"""Factors by which population-based training moves a number (Jaderberg et al. 2017)."""


class _Values(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    values: tuple[Any, ...] = Field(min_length=1)
    """The values to try."""

    @property
    def probes(self) -> list[Any]:
        return list(self.values)

    def draw(self, rng: random.Random) -> Any:
        return rng.choice(self.values)

    def perturb(self, value: Any, rng: random.Random) -> Any:
        """The previous or next value in the list."""
        here = self.values.index(value) if value in self.values else rng.randrange(len(self.values))
        return self.values[min(len(self.values) - 1, max(0, here + rng.choice((-1, 1))))]


class GridConfig(_Values):
    """Every value, with every value of the other settings."""

    kind: Literal["grid"] = "grid"
    """grid: each value in turn; choice: one of the values at random; uniform and int: a number from low to high, equally likely
    throughout; log_uniform and log_int: equally likely in each order of magnitude."""


class ChoiceConfig(_Values):
    """One of the values at random."""

    kind: Literal["choice"] = "choice"
    """How values are chosen."""


class RangeConfig(BaseModel):
    """A number between two ends, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["uniform", "log_uniform", "int", "log_int"]
    """uniform and int: equally likely throughout; log_uniform and log_int: equally likely in each order of magnitude."""
    low: float
    """Smallest value."""
    high: float
    """Largest value."""

    @model_validator(mode="after")
    def _is_a_range(self) -> RangeConfig:
        if not (math.isfinite(self.low) and math.isfinite(self.high)) or self.low >= self.high:
            raise ValueError(f"low {self.low:g} and high {self.high:g} are not a range: low must be below high, both finite")
        if self.logarithmic and self.low <= 0:
            raise ValueError(f"kind {self.kind} needs low above 0, got {self.low:g}: use {self.kind.removeprefix('log_')}")
        if self.whole and (self.low % 1 or self.high % 1):
            raise ValueError(f"kind {self.kind} needs whole ends, got {self.low:g} and {self.high:g}: use uniform")
        return self

    @property
    def whole(self) -> bool:
        return self.kind in ("int", "log_int")

    @property
    def logarithmic(self) -> bool:
        return self.kind.startswith("log_")

    @property
    def probes(self) -> list[Any]:
        """Both ends and a value between."""
        return [self.at(0.0), self.at(GOLDEN), self.at(1.0)]

    def at(self, share: float) -> float | int:
        """The value at ``share`` in [0,1] of the way from low to high."""
        if self.logarithmic:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        value = min(self.high, max(self.low, value))
        return round(value) if self.whole else value

    def draw(self, rng: random.Random) -> float | int:
        if self.kind == "int":
            return rng.randint(int(self.low), int(self.high))
        return self.at(rng.random())

    def perturb(self, value: float, rng: random.Random) -> float | int:
        """Slightly larger or smaller, within the range."""
        moved = min(self.high, max(self.low, value * rng.choice(PERTURBATIONS)))
        return round(moved) if self.whole else moved


SpaceConfig = Annotated[GridConfig | ChoiceConfig | RangeConfig, Field(discriminator="kind")]


def product_of(space: dict[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the values in ``space``, the last key's changing fastest."""
    points: list[dict[str, Any]] = [{}]
    for key, entry in space.items():
        points = [{**point, key: value} for point in points for value in entry.values]
    return points


def star_of(space: dict[str, Any], base: dict[str, Any]) -> list[dict[str, Any]]:
    """Every value of each setting with the ``base`` values of the others; equal points once."""
    points: list[dict[str, Any]] = []
    for key, entry in space.items():
        points += [point for value in entry.values if (point := {**base, key: value}) not in points]
    return points


def draws_of(space: dict[str, Any], number: int, seed: int) -> list[dict[str, Any]]:
    """``number`` independent draws, identical for the same seed."""
    rng = random.Random(seed)
    return [{key: entry.draw(rng) for key, entry in space.items()} for _ in range(number)]


def explore(
    settings: dict[str, Any], space: dict[str, Any], mutable: tuple[str, ...], resample: float, rng: random.Random
) -> dict[str, Any]:
    """Population-based training's next settings, from those of the copied trial: each mutable one is resampled with
    probability ``resample`` and otherwise perturbed."""
    moved = {
        key: space[key].draw(rng) if rng.random() < resample else space[key].perturb(settings[key], rng) for key in mutable
    }
    return {**settings, **moved}
