"""Where actors leave their metrics records, and the run's first failure, until the driver takes them."""

from __future__ import annotations

import time
from typing import Any

import ray

from raydfkd.runtime.failures import Failure
from raydfkd.runtime.run_context import RunContext


@ray.remote(num_cpus=0)
class LogActor:
    """A queue of (kind, step, values) records, stamped with the time at which they came."""

    def __init__(self, context: RunContext) -> None:
        self._records: list[dict[str, Any]] = []
        self._failure: Failure | None = None
        self._student_pids: list[list[int]] = []
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self.push("event", 0, {"message": "log actor restarted; records on their way to it are lost", "restart": True})

    def push(self, kind: str, step: int, values: dict[str, Any]) -> None:
        self._records.append({"kind": kind, "step": step, "wall_s": time.time(), **values})

    def drain(self) -> tuple[list[dict[str, Any]], Failure | None]:
        """All records since the last call, and the run's failure."""
        records, self._records = self._records, []
        return records, self._failure

    def fail(self, failure: Failure) -> None:
        """The run has failed. The first failure is the one that counts."""
        if self._failure is None:
            self._failure = failure

    def failure(self) -> Failure | None:
        return self._failure

    def begin_session(self, pids: list[int]) -> int:
        """A student's worker group has started; returns how often it had before."""
        self._student_pids.append(pids)
        return len(self._student_pids) - 1

    def student_pids(self) -> list[int]:
        """Process ids of the student workers, by rank; empty before they have started."""
        return self._student_pids[-1] if self._student_pids else []
