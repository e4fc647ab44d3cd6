"""Which changes of the number of generators a live run allows, and how they are told. Plain checks, without Ray."""

from __future__ import annotations

from collections.abc import Mapping

from raydfkd.errors import ConfigError
from raydfkd.pipeline.experiment.config import ExperimentConfig

MOST_GENERATORS = 1000
"""Of one source. Those without a place wait as actors of the cluster: a slip of the finger shall not flood it."""


def check_scale(config: ExperimentConfig, targets: Mapping[str, int], source: str | None, target: int) -> str:
    """The name of the source that is meant.

    A source may go down to no generator while another makes images. Not all of them may: the student would wait for images
    until the run failed.

    Args:
        config: the experiment.
        targets: generators wanted at present, by source.
        source: as named; None where there is only one.
        target: generators wanted from now on.

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
            "this run is in lockstep, where a seed fixes which generator makes which batch, so their number stays: "
            "start it with schedule.mode=decoupled to scale it"
        )
    if not 0 <= target <= MOST_GENERATORS:
        raise ConfigError(f"{target} generators are not possible: give a number from 0 to {MOST_GENERATORS}")
    if target == 0 and not any(number for name, number in targets.items() if name != source):
        raise ConfigError("without any generator the student would wait for images until the run fails: use raydfkd stop")
    bounds = config.sources[source].autoscale
    if bounds is not None and not bounds.min <= target <= bounds.max:
        raise ConfigError(
            f"{target} generators are outside sources.{source}.autoscale, {bounds.min} to {bounds.max}: stay inside it"
        )
    return source


def scale_message(source: str, before: int, target: int, num_continued: int, why: str) -> str:
    """The event line of a change."""
    continued = f", {num_continued} of them from the state they had" if num_continued else ""
    return f"{source} is scaled from {before} to {target} generators{continued}" + (f" ({why})" if why else "")
