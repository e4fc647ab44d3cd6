"""Which changes of the number of generators a live run allows, and how they are reported. Plain checks, without Ray."""

from __future__ import annotations

from collections.abc import Mapping

from raydfkd.errors import ConfigError
from raydfkd.pipeline.experiment.config import ExperimentConfig

MOST_GENERATORS = 1000
"""Per source. Unplaced ones wait as pending actors of the cluster: a typo must not flood it."""


def check_scale(config: ExperimentConfig, targets: Mapping[str, int], source: str | None, target: int) -> str:
    """The name of the source to scale, after checking the change.

    A source may go down to zero generators while another makes images, but not all of them: the student would wait for
    images until the run failed.

    Args:
        config: the experiment.
        targets: generators wanted at present, by source.
        source: the given name; None if there is only one.
        target: new number of generators.

    Raises:
        ConfigError: this run cannot have that many, or has no such source.
    """
    known = ", ".join(config.sources) or "none"
    if source is None:
        if len(config.sources) != 1:
            raise ConfigError(f"this run has the sources {known}: name one with --source")
        source = next(iter(config.sources))
    if source not in config.sources:
        raise ConfigError(f"this run has no source {source!r}, but {known}: name one of these with --source")
    if config.schedule.mode == "lockstep":
        raise ConfigError(
            "this run is in lockstep, where the seed fixes which generator makes which batch, so their number cannot change: "
            "start it with schedule.mode=decoupled to scale it"
        )
    if not 0 <= target <= MOST_GENERATORS:
        raise ConfigError(f"{target} generators are not possible: give a number from 0 to {MOST_GENERATORS}")
    if target == 0 and not any(number for name, number in targets.items() if name != source):
        raise ConfigError("without any generator the student would wait for images until the run fails: use raydfkd stop")
    bounds = config.sources[source].autoscale
    if bounds is not None and not bounds.min <= target <= bounds.max:
        raise ConfigError(
            f"{target} generators are outside sources.{source}.autoscale, {bounds.min} to {bounds.max}: stay in this range"
        )
    return source


def scale_message(source: str, before: int, target: int, num_continued: int, why: str) -> str:
    """The event line of a change."""
    continued = f", {num_continued} of them from their earlier state" if num_continued else ""
    return f"{source} scaled from {before} to {target} generators{continued}" + (f" ({why})" if why else "")
