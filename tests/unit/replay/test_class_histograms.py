"""Items of more than one class: counts of positions, draws, refusals, and what is kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raydfkd.replay.arrow import from_parquet, to_parquet
from raydfkd.replay.buffer import ReplayBuffer
from raydfkd.replay.config import TableConfig
from raydfkd.replay.snapshot import read_snapshot, write_snapshot
from raydfkd.types import SyntheticBatch

Make = Callable[..., SyntheticBatch]
Build = Callable[..., ReplayBuffer]

NUM_POSITIONS = 16
NUM_CLASSES = 5


def with_histograms(batch: SyntheticBatch, seed: int, num_positions: int = NUM_POSITIONS) -> SyntheticBatch:
    """Each image's positions are shared out among the classes at random, unevenly."""
    rng = np.random.default_rng(seed)
    histogram = rng.multinomial(num_positions, [0.6, 0.2, 0.1, 0.07, 0.03], len(batch)).astype(np.int32)
    return replace(batch, class_histogram=histogram, teacher_class=histogram.argmax(axis=1).astype(np.int32))


def test_counts_are_of_positions_and_exact_through_evictions(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=10, pinned=TableConfig(capacity=3))
    made = [with_histograms(make_batch(4, seed), seed) for seed in range(9)]
    pinned = with_histograms(make_batch(3, 20, source="collected"), 20)
    for batch in [pinned, *made]:
        buffer.insert(batch, None)
    held = np.concatenate([batch.class_histogram for batch in made])[-10:]  # first in, first out
    summary = buffer.summary()
    assert summary.size == 10
    np.testing.assert_array_equal(summary.class_counts, held.sum(axis=0))
    assert summary.class_counts.dtype == np.int64
    both = held.sum(axis=0) + pinned.class_histogram.sum(axis=0)
    stats = buffer.stats()
    np.testing.assert_array_equal(stats["class_counts"], both)
    shares = both / (13 * NUM_POSITIONS)
    assert stats["class_entropy"] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(NUM_CLASSES))
    assert buffer.forget_shard(9) == 4
    np.testing.assert_array_equal(buffer.summary().class_counts, held[:6].sum(axis=0))


def test_a_balanced_buffer_draws_an_item_by_its_share_of_each_class(make_batch: Make, make_buffer: Build) -> None:
    """P(i) = (1/C) sum_c h_ic / sum_j h_jc; of 60,000 draws a share strays by less than 0.009 (4 sigma)."""
    buffer = make_buffer(capacity=8, kind="class_balanced")
    batch = with_histograms(make_batch(8), 3)
    buffer.insert(batch, None)
    buffer.forget_shard(0)
    buffer.insert(batch, None)
    drawn = buffer.sample("small", 600, 100, 0).slots.ravel()
    assert batch.class_histogram is not None
    held = batch.class_histogram[:, batch.class_histogram.sum(axis=0) > 0]
    expected = (held / held.sum(axis=0)).mean(axis=1)
    np.testing.assert_allclose(np.bincount(drawn, minlength=8) / 60_000, expected, atol=0.009)


def test_a_table_holds_one_kind_of_items(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=8, kind="class_balanced")
    plain, counted = make_batch(2), with_histograms(make_batch(2), 0)
    buffer.insert(plain, None)
    with pytest.raises(ValueError, match="ssdkd-0 does not fit its table: it has class histograms and the table has none"):
        buffer.insert(counted, None)
    assert buffer.summary().class_counts.sum() == 2
    buffer.forget_shard(0)
    buffer.insert(counted, None)  # an empty table takes either kind
    with pytest.raises(ValueError, match="the table has class histograms and it has none"):
        buffer.insert(plain, None)
    with pytest.raises(ValueError, match="9 to 16 positions an image"):
        buffer.insert(with_histograms(make_batch(2), 0, num_positions=9), None)
    assert buffer.summary().class_counts.sum() == 2 * NUM_POSITIONS
    buffer.forget_shard(1)
    buffer.insert(plain, None)
    assert buffer.summary().class_counts.sum() == 2
    assert set(buffer.sample("small", 1, 50, 0).slots.ravel()) == {0, 1}


@pytest.mark.parametrize(
    ("histogram", "message"),
    [
        ([[3, 0, 0, 0, 0], [2, 0, 0, 0, 0]], "2 to 3 positions an image"),
        ([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], "at least 1"),
        ([[3, -1, 0, 0, 0], [2, 0, 0, 0, 0]], "no count below 0"),
        ([[3, 0, 0, 0], [3, 0, 0, 0]], r"has a class histogram \(2, 4\), it must be \(2, 5\)"),
    ],
)
def test_a_histogram_that_is_none_is_refused(
    make_batch: Make, make_buffer: Build, histogram: list[list[int]], message: str
) -> None:
    buffer = make_buffer(capacity=8)
    with pytest.raises(ValueError, match=message):
        buffer.insert(replace(make_batch(2), class_histogram=np.array(histogram, np.int32)), None)
    assert buffer.size == 0


def test_histograms_come_back_from_parquet_and_snapshots(tmp_path: Path, make_batch: Make, make_buffer: Build) -> None:
    batch = with_histograms(make_batch(4), 1)
    again = from_parquet(to_parquet(batch)).class_histogram
    assert again is not None
    assert again.dtype == np.int32
    np.testing.assert_array_equal(again, batch.class_histogram)
    assert from_parquet(to_parquet(make_batch(4))).class_histogram is None

    original, restored = (make_buffer(capacity=6, kind="class_balanced") for _ in range(2))
    for seed in range(3):
        batch = with_histograms(make_batch(4, seed), seed)
        original.insert(batch, batch)
    write_snapshot(tmp_path, original)
    state, shards = read_snapshot(tmp_path)
    restored.load_state_dict(state, dict(shards))
    for seed in range(10, 13):
        stats = (buffer.stats() for buffer in (original, restored))
        assert len({json.dumps(found, default=np.ndarray.tolist) for found in stats}) == 1
        keys = [buffer.sample("small", 4, 6, 0).keys for buffer in (original, restored)]
        np.testing.assert_array_equal(*keys)
        for buffer in (original, restored):
            buffer.insert(with_histograms(make_batch(3, seed), seed), None)
