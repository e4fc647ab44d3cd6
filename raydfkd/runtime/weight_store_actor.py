"""Versioned student weights: students push, generators pull."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray

from raydfkd.runtime.run_context import RunContext
from raydfkd.types import WeightsVersion


@ray.remote(num_cpus=0, max_concurrency=16)
class WeightStoreActor:
    """Keeps the newest published weights. It owns the stored object, which therefore outlives the student worker.

    A restarted one is empty: generators go on with the weights they have, and the student publishes again within a round.
    """

    def __init__(self, context: RunContext) -> None:
        self._newest: tuple[WeightsVersion, Any] = (-1, None)
        if ray.get_runtime_context().was_current_actor_reconstructed:
            message = "weight store restarted, empty until the student publishes again"
            context.actor("log").push.remote("event", 0, {"message": message, "restart": True})

    def publish(self, weights: np.ndarray, version: WeightsVersion) -> None:
        """Takes weights in, also older ones than those held: a restarted student begins anew with its own."""
        self._newest = version, ray.put(weights)

    def newest(self, known: WeightsVersion) -> tuple[WeightsVersion, list[Any]]:
        """(version, [reference]) of the newest weights; no reference where the caller has them already."""
        version, ref = self._newest
        return version, [] if version == known or ref is None else [ref]
