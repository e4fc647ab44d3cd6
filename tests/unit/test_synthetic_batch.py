"""Rows of a batch, and batches joined."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from raydfkd.types import SyntheticBatch

NUM_CLASSES = 4
COLUMNS = [field.name for field in fields(SyntheticBatch) if "ndarray" in str(field.type)]
"""Fields with a row for each image."""


def batch(n: int, seed: int, **others: Any) -> SyntheticBatch:
    """Random in every column."""
    rng = np.random.default_rng(seed)
    histogram = rng.multinomial(9, np.full(NUM_CLASSES, 1 / NUM_CLASSES), n).astype(np.int32)
    whole = SyntheticBatch(
        images=rng.integers(0, 256, (n, 1, 2, 2), dtype=np.uint8),
        targets=rng.integers(0, NUM_CLASSES, (n, 2, 2)).astype(np.int16),
        teacher_class=histogram.argmax(axis=1).astype(np.int32),
        teacher_confidence=rng.random(n, dtype=np.float32),
        source="ssdkd",
        generator_id=f"g-{seed}",
        student_version=seed,
        priorities=rng.random(n, dtype=np.float32),
        class_histogram=histogram,
        metrics={"loss": float(seed)},
    )
    return replace(whole, **others)


@pytest.mark.parametrize("rows", [np.array([3, 0, 3]), np.array([True, False, True, True]), slice(-3, None)])
def test_take_gives_these_rows_of_every_column(rows: np.ndarray | slice) -> None:
    whole = batch(4, 1)
    taken = whole.take(rows)
    assert len(taken) == 3
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(taken, name), getattr(whole, name)[rows])
    assert (taken.source, taken.generator_id, taken.student_version, taken.metrics) == ("ssdkd", "g-1", 1, {"loss": 1.0})
    plain = replace(whole, priorities=None, class_histogram=None).take(rows)
    assert plain.priorities is plain.class_histogram is None


def test_concat_undoes_take() -> None:
    whole = batch(7, 1)
    joined = SyntheticBatch.concat([whole.take(slice(0, 2)), whole.take(np.array([2])), whole.take(slice(3, None))])
    for name in COLUMNS:
        assert getattr(joined, name).dtype == getattr(whole, name).dtype
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert (joined.source, joined.metrics) == (whole.source, whole.metrics)


def test_concat_takes_what_is_not_an_images_own_from_the_call_or_the_first_batch() -> None:
    joined = SyntheticBatch.concat([batch(2, 1), batch(3, 2)], source="both", metrics={}, priorities=None)
    assert (joined.source, joined.generator_id, joined.student_version, joined.metrics) == ("both", "g-1", 1, {})
    assert joined.priorities is None
    assert joined.class_histogram is not None


@pytest.mark.parametrize("name", ["priorities", "class_histogram"])
def test_concat_refuses_columns_that_only_some_batches_have(name: str) -> None:
    parts = [batch(2, 1), batch(2, 2, **{name: None})]
    with pytest.raises(ValueError, match=f"1 of 2 batches have no {name}"):
        SyntheticBatch.concat(parts)
    assert len(SyntheticBatch.concat(parts, **{name: None})) == 4
    with pytest.raises(ValueError, match="no batches to join"):
        SyntheticBatch.concat([])


def test_class_counts_are_of_positions() -> None:
    counted = batch(5, 3)
    assert counted.class_histogram is not None
    assert counted.class_counts(NUM_CLASSES).tolist() == counted.class_histogram.sum(axis=0).tolist()
    assert counted.class_counts(NUM_CLASSES).sum() == 9 * 5
    plain = replace(counted, class_histogram=None)
    assert plain.class_counts(6).tolist() == np.bincount(counted.teacher_class, minlength=6).tolist()
