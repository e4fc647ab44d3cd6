"""TA-DFKD's filter as a stage after any source: images of which the teacher is not sure are not stored.

"Teacher as a Lenient Expert: Teacher-Agnostic Data-Free Knowledge Distillation" (Shin and Choi, AAAI 2024), in the form of its
code: a mixture of two Gaussians is fitted to a batch's cross-entropies to the teacher's own prediction, scaled to [0,1]; an
image is kept if it is more likely of the component of low loss. Batches are made until one is full. The paper filters what
its generator is trained on too; here the filter stands between any source and the buffer. Ours: after ``max_tries`` batches,
the dropped images of lowest loss fill it; the images kept beyond a full batch are dropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from raydfkd.settings import Settings
from raydfkd.types import BufferSummary, Preparation, Synthesizer, SyntheticBatch, WeightsVersion

NUM_UPDATES, TOLERANCE = 100, 1e-4
"""Most updates of the mixture, and the change of its mean log-likelihood at which it is done."""
LEAST_VARIANCE = 5e-4
"""Added to the components' variances, of losses in [0,1]."""


class LowLossFilterConfig(Settings):
    """TA-DFKD's filter (Shin and Choi, AAAI 2024): only images of which the teacher is sure, by a mixture of two Gaussians."""

    max_tries: int = Field(4, ge=1)
    """Most batches made for each one delivered; then the surest of the dropped images fill it."""


class FilteredSynthesizer:
    """Wraps another synthesizer; it has no state of its own.

    Args:
        inner: makes the images.
        config: the filter's settings.
    """

    def __init__(self, inner: Synthesizer, config: LowLossFilterConfig) -> None:
        self.inner = inner
        self.config = config

    def prepare(self) -> Preparation | None:
        return self.inner.prepare()

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        self.inner.load_student(weights, version)

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        kept: list[SyntheticBatch] = []
        dropped: list[SyntheticBatch] = []
        wanted, made, num_kept = 1, 0, 0
        for _ in range(self.config.max_tries):
            batch = self.inner.step(summary)
            is_sure = low_losses(-np.log(np.maximum(batch.teacher_confidence, np.finfo(np.float32).tiny)))
            kept.append(batch.take(is_sure))
            dropped.append(batch.take(~is_sure))
            wanted, made, num_kept = len(batch), made + len(batch), num_kept + int(is_sure.sum())
            if num_kept >= wanted:
                break
        spare = SyntheticBatch.concat(dropped)
        surest = spare.take(np.argsort(-spare.teacher_confidence, kind="stable"))
        metrics = {**kept[-1].metrics, "acceptance_rate": num_kept / made}
        return SyntheticBatch.concat([*kept, surest], metrics=metrics).take(slice(0, wanted))

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)


def low_losses(losses_N: np.ndarray) -> np.ndarray:
    """bool [N]: which losses are more likely of the lower of two Gaussians fitted to them; all, where all losses are equal.

    Expectation-maximisation from means 0 and 1, of losses scaled to [0,1], and the variance of all.
    """
    losses_N = losses_N.astype(np.float64)
    span = losses_N.max() - losses_N.min()
    if span == 0:
        return np.ones(len(losses_N), bool)
    x_N1 = ((losses_N - losses_N.min()) / span)[:, None]
    means, variances, shares = np.array([0.0, 1.0]), np.full(2, x_N1.var() + LEAST_VARIANCE), np.full(2, 0.5)
    likelihood = -np.inf
    for _ in range(NUM_UPDATES):
        log_N2 = np.log(shares) - 0.5 * (np.log(2 * np.pi * variances) + (x_N1 - means) ** 2 / variances)
        total_N1 = np.logaddexp(log_N2[:, :1], log_N2[:, 1:])
        of_N2 = np.exp(log_N2 - total_N1)
        before, likelihood = likelihood, float(total_N1.mean())
        if likelihood - before < TOLERANCE:
            break
        counts = of_N2.sum(0) + 1e-12
        means = (of_N2 * x_N1).sum(0) / counts
        variances = (of_N2 * (x_N1 - means) ** 2).sum(0) / counts + LEAST_VARIANCE
        shares = counts / counts.sum()
    low: np.ndarray = of_N2[:, int(means.argmin())] > 0.5
    return low
