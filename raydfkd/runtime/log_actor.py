"""Where actors leave their metrics records until the driver writes them."""

from __future__ import annotations

import time
from typing import Any

import ray


@ray.remote(num_cpus=0)
class LogActor:
    """A queue of (kind, step, values) records, stamped with the time at which they came."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []
        self._sessions = 0

    def push(self, kind: str, step: int, values: dict[str, Any]) -> None:
        self._records.append({"kind": kind, "step": step, "wall_s": time.time(), **values})

    def drain(self) -> list[dict[str, Any]]:
        """All records since the last call."""
        records, self._records = self._records, []
        return records

    def begin_session(self) -> int:
        """How often a student's worker group has started before: 0 for its first time."""
        self._sessions += 1
        return self._sessions - 1
