"""TA-DFKD's filter: the mixture of two Gaussians, and batches filled with what it keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_synthesis import SHAPE, assert_alike, build, hand_over, summary

from raydfkd.synthesis.low_loss_filter import FilteredSynthesizer, LowLossFilterConfig, low_losses
from raydfkd.types import BufferSummary, SyntheticBatch


class Scripted:
    """Delivers batches of given confidences, one after the other."""

    def __init__(self, *confidences: list[float]) -> None:
        self.confidences = list(confidences)

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        given = np.array(self.confidences.pop(0), np.float32)
        return SyntheticBatch(
            images=np.zeros((len(given), *SHAPE), np.uint8),
            targets=np.full(len(given), -1),
            teacher_class=np.zeros(len(given), np.int32),
            teacher_confidence=given,
            source="fast",
            generator_id="fast-0",
            student_version=0,
            metrics={"loss": float(len(self.confidences))},
        )


def filtered(inner: Any, max_tries: int) -> SyntheticBatch:
    return FilteredSynthesizer(inner, LowLossFilterConfig(max_tries=max_tries)).step(summary())


def test_the_mixture_parts_two_groups_of_losses() -> None:
    random = np.random.default_rng(0)
    low, high = random.normal(0.2, 0.05, 70), random.normal(2.0, 0.4, 30)
    kept = low_losses(np.concatenate([low, high]))
    assert kept[:70].mean() > 0.95
    assert kept[70:].mean() < 0.05
    assert np.array_equal(low_losses(10 * np.concatenate([low, high]) + 5), kept), "whatever the scale"


def test_equal_losses_are_all_kept() -> None:
    assert low_losses(np.full(7, 0.3)).all()


def test_a_batch_is_filled_with_sure_images_of_several() -> None:
    sure, unsure = [0.99, 0.98, 0.985, 0.99], [0.15, 0.2, 0.1, 0.12]
    inner = Scripted(sure[:2] + unsure[:2], sure[:3] + unsure[:1], sure)
    made = filtered(inner, max_tries=4)
    np.testing.assert_allclose(made.teacher_confidence, [0.99, 0.98, 0.99, 0.98])
    assert len(inner.confidences) == 1, "the third batch was not needed"
    assert made.metrics == {"loss": 1.0, "acceptance_rate": pytest.approx(5 / 8)}


def test_after_the_last_try_the_surest_of_the_others_fill_it() -> None:
    made = filtered(Scripted([0.99, 0.1, 0.3, 0.2], [0.98, 0.1, 0.15, 0.12]), max_tries=2)
    np.testing.assert_allclose(made.teacher_confidence, [0.99, 0.98, 0.3, 0.2])


def test_it_goes_on_from_the_inner_state_alone() -> None:
    settings = {"method": "fast", "batch_size": 12, "base_channels": 4, "latent_dim": 6}
    one, other = (FilteredSynthesizer(build("fast", settings, seed=seed), LowLossFilterConfig()) for seed in (1, 9))
    one.step(summary())
    hand_over(one, other)
    assert_alike(one, other)
    assert one.step(summary()).images.shape == (12, *SHAPE)
