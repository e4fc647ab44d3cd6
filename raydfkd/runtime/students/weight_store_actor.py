"""Versioned student weights: students push, generators pull."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray

from raydfkd.runtime.run_context import RunContext
from raydfkd.types import WeightsVersion


@ray.remote(num_cpus=0, max_concurrency=16)
class WeightStoreActor:
    """Keeps each student's newest published weights. It owns the stored objects, so they outlive the student workers.

    A restarted store is empty: generators continue with the weights they have, and the students publish again within a round.
    """

    def __init__(self, context: RunContext) -> None:
        self._first = context.config.student_name
        self._newest: dict[str, tuple[WeightsVersion, Any]] = {}
        if ray.get_runtime_context().was_current_actor_reconstructed:
            message = "weight store restarted, empty until the student publishes again"
            context.actor("coordinator").push.remote("event", 0, {"message": message, "restart": True})

    def publish(self, weights: np.ndarray, version: WeightsVersion, student: str | None = None) -> None:
        """Stores weights, even if older than those held: a restarted student publishes its own again.

        Args:
            student: their student; None: the first one.
        """
        self._newest[student or self._first] = version, ray.put(weights)

    def newest(self, known: WeightsVersion, student: str | None = None) -> tuple[WeightsVersion, list[Any]]:
        """(version, [reference]) of a student's newest weights; no reference if the caller has them already."""
        version, ref = self._newest.get(student or self._first, (-1, None))
        return version, [] if version == known or ref is None else [ref]
