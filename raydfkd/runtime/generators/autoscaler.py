"""Drives the autoscale policies of a run's sources from the pool's watcher."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.runtime.generators.autoscale_policy import AutoscalePolicy
from raydfkd.runtime.generators.roster import Roster

logger = logging.getLogger(__name__)

LOOK_PERIOD_S = 1.0
PATIENCE_S = 5.0


class Autoscaler:
    """Checks the waits periodically, and scales.

    Args:
        config: the experiment.
        coordinator: of the run; it measures the waits.
        scale: takes source, target and reason.
    """

    def __init__(self, config: ExperimentConfig, coordinator: Any, scale: Callable[[str, int, str], Any]) -> None:
        now = time.monotonic()
        self._coordinator, self._scale = coordinator, scale
        self._policies = {
            source: AutoscalePolicy(settings.autoscale, now)
            for source, settings in config.sources.items()
            if settings.autoscale is not None
        }
        self._next_look = now

    def note_change(self, source: str) -> None:
        """Reports that the number of a source's generators has changed, for whatever reason."""
        if source in self._policies:
            self._policies[source].note_change(time.monotonic())

    def look(self, roster: Roster) -> None:
        """Changes the number by one if the policy says so; each change is one event line with its reason."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_PERIOD_S
        for source, policy in self._policies.items():
            if not policy.is_due(now):
                continue
            ages = policy.window_s, now - policy.changed_at
            try:
                waits = ray.get(self._coordinator.waits.remote(source, *ages), timeout=PATIENCE_S)
            except (RayError, GetTimeoutError) as error:
                logger.info("the coordinator does not answer at the moment: %s", type(error).__name__)
                return
            counts = roster.counts(source)
            change = policy.decide(counts["target"], counts["running"], waits)
            if change is not None:
                self._scale(source, change.target, f"autoscale: {change.reason}")
