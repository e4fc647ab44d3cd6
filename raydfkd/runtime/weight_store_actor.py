"""Versioned student weights: students push, generators pull."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray

from raydfkd.types import WeightsVersion


@ray.remote(num_cpus=0, max_concurrency=16)
class WeightStoreActor:
    """Keeps the newest published weights. It owns the stored object, which therefore outlives the student worker."""

    def __init__(self) -> None:
        self._version: WeightsVersion = -1
        self._ref: Any = None

    def publish(self, weights: np.ndarray, version: WeightsVersion) -> None:
        """Takes weights in; older ones than those held are dropped, except that a restarted student begins anew with its own."""
        self._ref, self._version = ray.put(weights), version

    def newest(self, known: WeightsVersion) -> tuple[WeightsVersion, list[Any]]:
        """(version, [reference]) of the newest weights; no reference where the caller has them already."""
        return self._version, [] if self._version == known or self._ref is None else [self._ref]
