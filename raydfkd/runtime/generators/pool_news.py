"""What the generator pool reports about its generators: how many are in each phase, and which cannot be placed."""

from __future__ import annotations

import time
from typing import Any

from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.runtime.generators.roster import Member, Roster
from raydfkd.runtime.preflight import amounts, has_room, requested

PENDING_TOLD_S = 3.0
"""A process needs about this long to start if resources are free."""


class PoolNews:
    """Sends records to the run's coordinator.

    Args:
        config: the experiment.
        roster: the pool's members.
        coordinator: of the run.
    """

    def __init__(self, config: ExperimentConfig, roster: Roster, coordinator: Any) -> None:
        self._config, self._roster, self._coordinator = config, roster, coordinator
        self._told: dict[str, dict[str, Any]] = {}
        self._pending: set[str] = set()

    def event(self, message: str, restart: bool = False) -> None:
        self._coordinator.push.remote("event", None, {"message": message, "restart": restart})

    def tell_changes(self) -> None:
        """Sends a ``generators`` record for each source that has changed."""
        for source in self._config.sources:
            now = {**self._roster.counts(source), "generators": self._roster.listing(source)}
            if self._told.get(source) != now:
                self._told[source] = now
                self._coordinator.push.remote("generators", None, {"source": source, **now})

    def tell_pending(self) -> None:
        """Logs one line on generators that are pending at two checks or more. This is not a failure: the others continue."""
        before, self._pending = self._pending, {m.name for m in self._roster.members() if m.phase == "pending"}
        for source, settings in self._config.sources.items():
            pending = [m for m in self._roster.members(source) if m.name in before & self._pending and m.actor is not None]
            news = [member for member in pending if not member.told_pending]
            since = max((member.started_at for member in news), default=0.0)
            need = requested(settings.resources)
            if not news or time.monotonic() - since < PENDING_TOLD_S or has_room(need):
                continue
            for member in news:
                member.told_pending = True
            counts = self._roster.counts(source)
            self.event(
                f"{len(pending)} of {counts['target']} generators of {source} lack resources ({counts['running']} run): each "
                f"needs {amounts(need)} and no node has that free; they start as soon as one does"
            )

    def whereabouts(self, member: Member) -> str:
        need = amounts(requested(self._config.sources[member.source].resources))
        return f"generator {member.name} to start: it needs {need}, and the cluster may have none free"
