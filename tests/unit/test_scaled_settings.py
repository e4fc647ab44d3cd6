"""A share of a budget: every count of it, at every depth, and nothing else."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field, ValidationError, model_validator

from raydfkd.settings import Budget, Settings


class Part(Settings):
    steps: Annotated[int, Budget()] = Field(100, ge=0)
    period: Annotated[int | None, Budget()] = Field(None, ge=1)
    size: int = 100


class Other(Part):
    extra: Annotated[int, Budget()] = 8


class Whole(Settings):
    rounds: Annotated[int, Budget()] = Field(200, ge=1)
    rate: float = 100.0
    part: Part = Part()
    parts: dict[str, Part | Other] = Field(default_factory=dict)
    none: Part | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Whole:
        if self.part.steps > self.rounds:
            raise ValueError("more steps than rounds")
        return self


def test_counts_at_every_depth_are_multiplied_and_nothing_else() -> None:
    whole = Whole(part=Part(steps=40, period=10), parts={"a": Part(steps=30), "b": Other(steps=20, extra=4)})
    assert whole.scaled(0.5) == Whole(
        rounds=100, part=Part(steps=20, period=5), parts={"a": Part(steps=15), "b": Other(steps=10, extra=2)}
    )
    assert whole == Whole(part=Part(steps=40, period=10), parts={"a": Part(steps=30), "b": Other(steps=20, extra=4)})


def test_they_are_rounded_0_stays_0_none_stays_none_and_others_are_at_least_1() -> None:
    whole = Whole(rounds=7, part=Part(steps=0), parts={"a": Part(steps=3, period=1)})
    assert whole.scaled(0.25) == Whole(rounds=2, part=Part(steps=0), parts={"a": Part(steps=1, period=1)})
    assert whole.scaled(0.001) == Whole(rounds=1, part=Part(steps=0), parts={"a": Part(steps=1, period=1)})
    assert whole.scaled(1) == whole


def test_a_share_above_1_is_a_longer_run() -> None:
    assert Whole().scaled(3) == Whole(rounds=600, part=Part(steps=300))


def test_what_does_not_fit_together_any_more_is_refused() -> None:
    whole = Whole(rounds=1, part=Part(steps=1), parts={})
    assert whole.scaled(0.1) == whole
    uneven = Whole(rounds=5, part=Part(steps=5, period=1))
    assert uneven.scaled(0.5).rounds == uneven.scaled(0.5).part.steps == 2

    class Strict(Settings):
        rounds: Annotated[int, Budget()] = Field(200, ge=100)

    with pytest.raises(ValidationError, match="greater than or equal to 100"):
        Strict().scaled(0.25)
