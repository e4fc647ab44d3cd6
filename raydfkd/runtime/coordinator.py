"""State that a run's actors share besides the data: metrics records, the first failure, the stop request, expected workers.

Plain and single-threaded; ``coordinator_actor.py`` is its shell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from raydfkd.errors import WaitTimeoutError
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.runtime.failures import Failure
from raydfkd.runtime.generators.autoscale_policy import WaitMeter, Waits
from raydfkd.runtime.preflight import amounts, requested
from raydfkd.runtime.students.stop_agreement import StopAgreement


class Coordinator:
    """Keeps records until the driver takes them, and the state that the run's actors must agree on.

    Args:
        config: the experiment.
        export: takes every record (kind, step, values), for metrics endpoints.
        restarted: an earlier coordinator of the run has died and its state is lost.
    """

    def __init__(
        self, config: ExperimentConfig, export: Callable[[str, int, Mapping[str, Any]], None], restarted: bool = False
    ) -> None:
        self._records: list[dict[str, Any]] = []
        self._failure: Failure | None = None
        self._student_pids: dict[str, list[list[int]]] = {name: [] for name in config.students}
        self._config = config
        self._without_workers_since: dict[str, float] = {}
        self._stop = StopAgreement()
        self._targets: dict[str, int] = {}
        self._newest_step = 0
        scaled = [source.autoscale.window_s for source in config.sources.values() if source.autoscale is not None]
        self._meter = WaitMeter(max(scaled, default=0.0)) if scaled else None
        self._export = export
        if restarted:
            self.push(
                "event", 0, {"message": "coordinator restarted; records that the driver had not read are lost", "restart": True}
            )
            return
        for name, student in config.students.items():
            if student.elastic:
                self.note_workers_lost(name)

    def push(self, kind: str, step: int | None, values: dict[str, Any]) -> None:
        """Takes a record; with step None it gets the newest step reported."""
        self._newest_step = max(self._newest_step, step or 0)
        step = self._newest_step if step is None else step
        self._records.append({"kind": kind, "step": step, "wall_s": time.time(), **values})
        self._export(kind, step, values)
        if self._meter is not None:
            self._meter.take(kind, values, time.monotonic())

    def waits(self, source: str, window_s: float, not_before_s: float) -> Waits:
        """Shares of the time that students and a source's generators waited, over the last ``window_s`` seconds.

        Args:
            not_before_s: maximum age in seconds of the records considered.
        """
        assert self._meter is not None, "only asked for a source with autoscale"
        now = time.monotonic()
        return self._meter.waits(source, now - min(window_s, not_before_s), now - not_before_s)

    def note_targets(self, targets: dict[str, int]) -> None:
        """Generators wanted by source, for a restarted pool."""
        self._targets = targets

    def targets(self) -> dict[str, int]:
        return self._targets

    def request_stop(self) -> None:
        """Requests a clean stop: the students see it at their next round."""
        self._stop.asked = True

    def stopping(self) -> bool:
        return self._stop.asked

    def ends_before(self, student: str, number: int) -> bool:
        """See ``StopAgreement``."""
        return self._stop.ends_before(student, number)

    def drain(self) -> tuple[list[dict[str, Any]], Failure | None]:
        """All records since the last call, and the run's failure."""
        self._check_workers()
        records, self._records = self._records, []
        return records, self._failure

    def fail(self, failure: Failure) -> None:
        """Reports a failure of the run. The first one counts."""
        if self._failure is None:
            self._failure = failure

    def failure(self) -> Failure | None:
        return self._failure

    def begin_attempt(self, student: str, pids: list[int]) -> int:
        """Reports that a student's worker group has started; returns how often it started before."""
        self._student_pids[student].append(pids)
        self._without_workers_since.pop(student, None)
        return len(self._student_pids[student]) - 1

    def note_workers_lost(self, student: str) -> None:
        """Checks elastic students without running workers: Ray Train would wait for nodes indefinitely."""
        self._without_workers_since[student] = time.monotonic()

    def _check_workers(self) -> None:
        patience_s = self._config.runtime.wait_timeout_s
        for name, since in self._without_workers_since.items():
            if time.monotonic() - since > patience_s:
                student, label = self._config.students[name], self._config.label_of(name)
                sentence = (
                    f"waited {patience_s:.0f} s for {label} workers: at least {student.fewest_workers} are required, and each "
                    f"needs {amounts(requested(student.resources))} on a node; add nodes, then resume"
                )
                self.fail(Failure.of(WaitTimeoutError(sentence), f"the {label} workers"))

    def student_pids(self, student: str | None = None) -> list[int]:
        """Process ids of a student's workers (None: the first one's), by rank; empty before they have started."""
        known = self._student_pids[student or next(iter(self._student_pids))]
        return known[-1] if known else []
