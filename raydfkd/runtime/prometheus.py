"""A run's metrics at Ray's Prometheus endpoint: made from the same records as metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from raydfkd.metrics import exported, readings, tags_of
from raydfkd.runtime.run_context import RunContext


class RunMetrics:
    """Exports an actor's records. Each actor with records creates one in its constructor.

    Args:
        context: the run, named in the tag ``run`` of every metric.
    """

    def __init__(self, context: RunContext) -> None:
        self._student = context.config.student_name
        self._exported: dict[str, Any] = {}
        kinds = {"counter": Counter, "gauge": Gauge}
        for metric, export in exported():
            made = kinds[export.type](export.name, description=metric.help, tag_keys=("run", *tags_of(metric.kind)))
            made.set_default_tags({"run": context.path.name})
            self._exported[export.name] = made

    def take(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Exports one record."""
        for name, tags, value in readings(kind, step, values, self._student):
            metric = self._exported[name]
            if isinstance(metric, Gauge):
                metric.set(value, tags)
            elif value > 0:  # Ray's counters reject an increment of 0.
                metric.inc(value, tags)
