"""The generators that a run has, wants and had. Plain bookkeeping without Ray; the pool acts on it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raydfkd.pipeline.experiment.config import generator_id

PHASES = ("running", "starting", "pending", "draining")
"""pending: no process yet, resources may be in use; starting: building its networks; draining: finishing its last batch."""


@dataclass
class Member:
    """One generator of the run, independent of its current actor. A retired one keeps its state and can come back.

    Attributes:
        source, index: its source and number; together they form its unique name.
        wanted: it should run; otherwise it should end, or has ended.
        joined: an increasing number that identifies the youngest.
        added: the run did not start with it.
        actor: its actor, None while there is none.
        placed: pending answer of an actor that may not be placed yet, None once it is.
        building: pending answer while it is starting.
        state: of its synthesizer, as last fetched.
        num_batches: batches made by this actor until then.
        draining_since: when it was asked to end.
        replaced: how the previous actor died, until this one runs; None otherwise.
    """

    source: str
    index: int
    wanted: bool = False
    joined: int = 0
    added: bool = False
    actor: Any = None
    placed: Any = None
    building: Any = None
    pid: int | None = None
    state: bytes | None = None
    has_delivered: bool = False
    num_batches: int = 0
    state_taken_at: float = 0.0
    restarts: int = 0
    told_pending: bool = False
    replaced: str | None = None
    started_at: float = 0.0
    draining_since: float | None = None

    @property
    def name(self) -> str:
        return generator_id(self.source, self.index)

    @property
    def phase(self) -> str | None:
        """One of ``PHASES``; None if retired."""
        if self.actor is None:
            return "pending" if self.wanted else None
        if self.draining_since is not None or not self.wanted:
            return "draining"
        if self.building is None:
            return "running"
        return "starting" if self.placed is None else "pending"

    def forget_actor(self) -> None:
        """Its process has ended; its state stays."""
        self.actor = self.placed = self.building = self.pid = self.draining_since = self.replaced = None
        self.told_pending = False
        self.num_batches = 0


class Roster:
    """The members of every source.

    Args:
        targets: generators wanted, by source.
        states: synthesizer states by generator, from a checkpoint, including retired generators.
    """

    def __init__(self, targets: Mapping[str, int], states: Mapping[str, bytes]) -> None:
        self._lock = threading.Lock()
        self._joins = itertools.count(1)
        self._members: dict[str, list[Member]] = {source: [] for source in targets}
        for source, target in targets.items():
            known = [index for index in (_index_in(source, name) for name in states) if index is not None]
            for index in range(max([target - 1, *known]) + 1):
                name = generator_id(source, index)
                self._members[source].append(Member(source, index, state=states.get(name), state_taken_at=time.monotonic()))
            self._want(source, target)

    def members(self, source: str | None = None) -> list[Member]:
        """All members, including retired ones, of one source or of all."""
        with self._lock:
            return [m for name, members in self._members.items() if source in (None, name) for m in members]

    def targets(self) -> dict[str, int]:
        """Generators wanted, by source."""
        with self._lock:
            return {source: sum(member.wanted for member in members) for source, members in self._members.items()}

    def set_target(self, source: str, target: int) -> tuple[list[Member], list[Member]]:
        """Updates which generators are wanted; returns those to start and those to end.

        Up: retired and draining ones come back first, lowest number first, and continue from their states; a generator that
        has trained for an hour is worth more than a new one. Down: pending ones go first, then the youngest.
        """
        with self._lock:
            wanted = [member for member in self._members[source] if member.wanted]
            if target >= len(wanted):
                return self._want(source, target - len(wanted), added=True), []
            order = sorted(wanted, key=lambda m: (m.phase != "pending", -m.joined))
            leaving = order[: len(wanted) - target]
            for member in leaving:
                member.wanted = False
            return [], leaving

    def drop(self, member: Member) -> None:
        """Marks one that could not start as no longer wanted."""
        with self._lock:
            member.wanted = False

    def counts(self, source: str) -> dict[str, int]:
        """``target``, and how many of its generators are in each of ``PHASES``."""
        phases = [member.phase for member in self.members(source)]
        return {"target": self.targets()[source], **{phase: phases.count(phase) for phase in PHASES}}

    def listing(self, source: str) -> list[dict[str, Any]]:
        """``name``, ``state`` (its phase), ``pid`` and ``restarts`` of each one that is not retired."""
        return [
            {"name": member.name, "state": phase, "pid": member.pid, "restarts": member.restarts}
            for member in self.members(source)
            if (phase := member.phase) is not None
        ]

    def _want(self, source: str, more: int, added: bool = False) -> list[Member]:
        members = self._members[source]
        joining: list[Member] = []
        for index in itertools.count():
            if len(joining) == more:
                return joining
            if index == len(members):
                members.append(Member(source, index))
            member = members[index]
            if not member.wanted:
                member.wanted, member.added, member.joined = True, added, next(self._joins)
                joining.append(member)
        raise AssertionError("count does not end")


def _index_in(source: str, name: str) -> int | None:
    """The number of generator ``name`` within ``source``; None if it is another source's."""
    known, _, number = name.rpartition("-")
    return int(number) if known == source and number.isdigit() else None
