"""Which numbers of generators a live run accepts, and the sentence where it does not."""

from __future__ import annotations

import pytest
from replay_rig import config

from raydfkd.errors import ConfigError
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.runtime.generators.scaling import check_scale, scale_message
from raydfkd.synthesis.method import AutoscaleConfig

DECOUPLED = config({"mode": "decoupled"})
SOURCE = DECOUPLED.sources["inversion"]


def with_sources(**sources: object) -> ExperimentConfig:
    return DECOUPLED.model_copy(update={"sources": sources})


TWO = with_sources(one=SOURCE, two=SOURCE.model_copy(update={"autoscale": AutoscaleConfig(min=1, max=3)}))


def test_the_only_source_need_not_be_named() -> None:
    assert check_scale(DECOUPLED, {"inversion": 1}, None, 5) == "inversion"
    assert check_scale(DECOUPLED, {"inversion": 1}, "inversion", 5) == "inversion"


def test_one_of_two_sources_may_rest() -> None:
    assert check_scale(TWO, {"one": 1, "two": 1}, "one", 0) == "one"


@pytest.mark.parametrize(
    ("settings", "targets", "source", "target", "sentence"),
    [
        (DECOUPLED, {"inversion": 1}, "nosuch", 2, "this run has no source 'nosuch', but inversion: name one of these"),
        (TWO, {"one": 1, "two": 1}, None, 2, "this run has the sources one, two: name one with --source"),
        (config(), {"inversion": 1}, None, 2, "this run is in lockstep, .*schedule.mode=decoupled"),
        (DECOUPLED, {"inversion": 1}, None, -1, "-1 generators are not possible: give a number from 0 to 1000"),
        (DECOUPLED, {"inversion": 1}, None, 1001, "1001 generators are not possible"),
        (DECOUPLED, {"inversion": 3}, None, 0, "without any generator .* use raydfkd stop"),
        (TWO, {"one": 0, "two": 1}, "one", 0, None),
        (TWO, {"one": 1, "two": 0}, "one", 0, "without any generator"),
        (TWO, {"one": 1, "two": 1}, "two", 4, "4 generators are outside sources.two.autoscale, 1 to 3: stay in this range"),
    ],
)
def test_what_is_refused(
    settings: ExperimentConfig, targets: dict[str, int], source: str | None, target: int, sentence: str | None
) -> None:
    if sentence is None:
        assert check_scale(settings, targets, source, target) == source
        return
    with pytest.raises(ConfigError, match=sentence):
        check_scale(settings, targets, source, target)


def test_the_line_that_tells_of_a_change() -> None:
    assert scale_message("a", 1, 4, 0, "") == "a scaled from 1 to 4 generators"
    assert scale_message("a", 1, 4, 2, "raydfkd scale") == (
        "a scaled from 1 to 4 generators, 2 of them from their earlier state (raydfkd scale)"
    )
