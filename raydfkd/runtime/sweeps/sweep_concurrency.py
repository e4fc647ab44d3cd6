"""How many trials of a sweep the cluster holds at once, by calculation: Ray Tune cannot know what a trial's actors take.

A trial with the local runner is one process. With the Ray runner its process and its generators lie in a placement group of
its own, which Tune reserves whole; its student workers get one of Ray Train's, outside. So Tune alone would start as many
trials as their generators allow, and their students would wait for each other's places forever.
"""

from __future__ import annotations

from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.runtime.preflight import demands, place, requested

Demands = list[tuple[str, dict[str, float]]]

NOTHING = {"CPU": 0.001}
"""What a group reserves that needs nothing: Ray does not allow empty bundles."""


def trial_demands(config: ExperimentConfig) -> Demands:
    """(name, resources) of every process of a trial that takes resources."""
    if config.runtime.runner == "ray":
        return demands(config)
    most: dict[str, float] = {}
    for resources in config.resources:
        for kind, amount in requested(resources).items():
            most[kind] = max(most.get(kind, 0.0), amount)
    return [("trial", most)]


def trial_bundles(config: ExperimentConfig) -> list[dict[str, float]]:
    """The bundles of a trial's own placement group, first its process's (empty if it takes nothing)."""
    if config.runtime.runner == "local":
        return [trial_demands(config)[0][1]]
    generators = [need for name, need in demands(config) if name.startswith("generator ")]
    return [{}, *(generators or [NOTHING])]


def most_at_once(wanted: Demands, nodes: list[dict[str, float]], limit: int) -> int:
    """How many trials, each needing all of ``wanted``, the ``nodes`` (their resources) hold at once; at most ``limit``."""
    free = [dict(node) for node in nodes]
    for number in range(limit):
        if place(wanted, free) is not None:
            return number
    return limit
