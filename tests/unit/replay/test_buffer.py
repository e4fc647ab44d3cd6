import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from raydfkd.errors import ReplayFullError
from raydfkd.replay.buffer import ReplayBuffer
from raydfkd.replay.config import ReplayConfig, SelectorConfig, TableConfig
from raydfkd.types import SyntheticBatch

Make = Callable[..., SyntheticBatch]
Build = Callable[..., ReplayBuffer]


def _live_keys(buffer: ReplayBuffer) -> list[int]:
    return [int(k) for view in buffer.shards_after(-1) for k in view.keys[view.slots >= 0]]


def test_fifo_evicts_the_oldest_rows_first(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=10)
    for seed in range(2):
        buffer.insert(make_batch(4, seed), seed)
    buffer.insert(make_batch(4, 2), 2)
    first, second, third = buffer.shards_after(-1)
    assert first.slots.tolist() == [-1, -1, 2, 3]
    assert (second.slots >= 0).all()
    assert (third.slots >= 0).all()
    buffer.insert(make_batch(4, 3), 3)
    assert [view.shard_id for view in buffer.shards_after(-1)] == [1, 2, 3]
    assert [view.shard_id for view in buffer.shards_after(1)] == [2, 3]


def test_a_retired_shards_payload_is_dropped(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=4)
    buffer.insert(make_batch(4), "old pixels")
    assert buffer.payload(0) == "old pixels"
    buffer.insert(make_batch(4), "new pixels")
    with pytest.raises(KeyError):
        buffer.payload(0)


def test_lowest_priority_evicts_by_the_largest_priority_of_any_consumer(make_batch: Make, make_buffer: Build) -> None:
    remover = SelectorConfig(kind="lowest_priority")
    buffer = make_buffer(capacity=4, consumers=("a", "b"), remover=remover, capacity_bytes=10**6)
    buffer.insert(make_batch(4, priorities=np.array([4, 3, 2, 1], np.float32)), None)
    keys = buffer.shards_after(-1)[0].keys
    buffer.update("b", keys[3:], np.array([9.0]))
    buffer.update("a", keys[3:], np.array([0.5]))  # the later word, but b still needs the item
    buffer.insert(make_batch(2, priorities=np.array([5, 5], np.float32)), None)
    assert buffer.shards_after(-1)[0].slots.tolist() == [0, -1, -1, 3]


def test_keys_are_never_used_again_and_name_their_slot(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=7)
    seen: list[int] = []
    for seed in range(9):
        buffer.insert(make_batch(3, seed), None)
        view = buffer.shards_after(seed - 1)[-1]
        np.testing.assert_array_equal(view.keys % buffer.total_slots, view.slots)
        seen += view.keys.tolist()
    assert len(set(seen)) == len(seen)


def test_an_update_for_an_evicted_key_is_dropped_and_counted(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=4)
    buffer.insert(make_batch(4), None)
    old = buffer.shards_after(-1)[0].keys
    buffer.insert(make_batch(2, priorities=np.ones(2, np.float32)), None)  # rows 0 and 1 leave, their slots are taken again
    assert buffer.update("small", old, np.full(4, 50.0)) == 2
    assert buffer.stats()["dropped_updates"] == 2
    np.testing.assert_array_equal(buffer.analysis()["priorities"], [1.0, 1.0, 50.0, 50.0])


def test_of_a_repeated_key_the_last_priority_stays(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=4)
    buffer.insert(make_batch(2), None)
    keys = buffer.shards_after(-1)[0].keys
    buffer.update("small", keys[[0, 1, 0]].reshape(1, 3), np.array([[5.0, 1.0, 7.0]]))
    assert buffer.analysis()["priorities"].tolist() == [7.0, 1.0]
    sample = buffer.sample("small", 1, 4000, 0)
    share = 7**0.6 / (7**0.6 + 1)
    assert abs((sample.keys == keys[0]).mean() - share) < 4 * np.sqrt(share * (1 - share) / 4000)


def test_priorities_that_are_no_number_are_refused_and_counted(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=8)
    buffer.insert(make_batch(3, priorities=np.array([2, np.nan, 3], np.float32)), None)
    keys = buffer.shards_after(-1)[0].keys
    assert buffer.analysis()["priorities"].tolist() == [2.0, 1.0, 3.0]
    assert buffer.update("small", keys, np.array([np.nan, np.inf, 6.0])) == 0
    assert buffer.analysis()["priorities"].tolist() == [2.0, 1.0, 6.0]
    assert buffer.stats()["invalid_updates"] == 3
    assert buffer.stats()["dropped_updates"] == 0


def test_a_batch_without_priorities_gets_each_consumers_largest(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=8, consumers=("a", "b"))
    buffer.insert(make_batch(2), None)
    assert buffer.analysis()["priorities"].tolist() == [1.0, 1.0]
    buffer.update("b", buffer.shards_after(-1)[0].keys, np.array([0.25, 0.5]))
    buffer.insert(make_batch(1), None)
    assert buffer.analysis("a")["priorities"].tolist() == [1.0, 1.0, 1.0]
    assert buffer.analysis("b")["priorities"].tolist() == [0.25, 0.5, 0.5]


def test_bytes_are_bounded_by_evicting_whole_shards(make_batch: Make, make_buffer: Build) -> None:
    one = make_batch(4).num_bytes
    buffer = make_buffer(capacity=100, capacity_bytes=3 * one - 1)
    for seed in range(6):
        buffer.insert(make_batch(4, seed), None)
        assert buffer.num_bytes <= 3 * one - 1
    assert [view.shard_id for view in buffer.shards_after(-1)] == [4, 5]
    with pytest.raises(ReplayFullError, match=r"raise replay\.synthetic\.capacity_bytes"):
        buffer.insert(make_batch(12), None)


def test_items_beyond_their_age_leave_on_the_next_insert(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=100, max_item_age_batches=2)
    for seed in range(5):
        buffer.insert(make_batch(3, seed), None)
    assert sorted(set(buffer.analysis()["ages"].tolist())) == [0, 1, 2]


def test_forgetting_a_shard_evicts_its_rows(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=10)
    buffer.insert(make_batch(4), None)
    buffer.insert(make_batch(4), None)
    assert buffer.forget_shard(0) == 4
    assert buffer.forget_shard(0) == 0
    assert buffer.size == 4
    assert set(buffer.sample("small", 1, 50, 0).keys.ravel()) <= set(_live_keys(buffer))


def test_locate_finds_the_shard_and_row_of_a_slot(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=6, pinned=TableConfig(capacity=4))
    for seed, source in enumerate(["ssdkd", "collected", "ssdkd"]):
        buffer.insert(make_batch(4, seed, source=source), None)
    for view in buffer.shards_after(-1):
        rows = np.flatnonzero(view.slots >= 0)
        shard_ids, found = buffer.locate(view.slots[rows])
        assert (shard_ids == view.shard_id).all()
        np.testing.assert_array_equal(found, rows)


def test_the_pinned_table_never_evicts_and_says_when_it_is_full(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=4, pinned=TableConfig(capacity=5))
    buffer.insert(make_batch(4, source="condensed"), None)
    for seed in range(5):
        buffer.insert(make_batch(4, seed), None)
    assert buffer.shards_after(-1)[0].shard_id == 0
    with pytest.raises(ReplayFullError, match=r"2 images do not fit the pinned table.*raise replay\.pinned\.capacity"):
        buffer.insert(make_batch(2, source="surrogate"), None)
    assert buffer.summary().size == 4  # of the synthetic table alone


def test_what_cannot_be_stored_is_refused(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=4)
    with pytest.raises(ReplayFullError, match=r"5 images do not fit the synthetic table"):
        buffer.insert(make_batch(5), None)
    with pytest.raises(ValueError, match="pinned is not configured"):
        buffer.insert(make_batch(1, source="collected"), None)
    with pytest.raises(ValueError, match=r"classes outside 0\.\.4"):
        buffer.insert(replace(make_batch(1), teacher_class=np.array([5], np.int32)), None)
    with pytest.raises(ValueError, match="insert first"):
        buffer.sample("small", 1, 1, 0)
    buffer.insert(make_batch(1), None)
    with pytest.raises(ValueError, match="no consumer 'large': the buffer knows small"):
        buffer.sample("large", 1, 1, 0)


def test_stats_and_analysis_describe_the_live_items(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=4, pinned=TableConfig(capacity=4))
    batches = [make_batch(4, 0), make_batch(2, 1, student_version=3), make_batch(2, 2, source="collected", student_version=-1)]
    for batch in batches:
        buffer.insert(batch, None)
    arrays = buffer.analysis()
    # Slots 0 and 1 went to the second batch, 2 and 3 still hold the first one's last rows.
    expected = np.concatenate([batches[1].teacher_class, batches[0].teacher_class[2:], batches[2].teacher_class])
    np.testing.assert_array_equal(arrays["teacher_class"], expected)
    assert arrays["source"].tolist() == ["ssdkd"] * 4 + ["collected"] * 2
    assert arrays["ages"].tolist() == [1, 1, 2, 2, 0, 0]
    stats = buffer.stats(newest_version=lambda generator: 5)
    np.testing.assert_array_equal(stats["class_counts"], np.bincount(expected, minlength=5))
    shares = np.bincount(expected) / 6
    shares = shares[shares > 0]
    assert stats["class_entropy"] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(5))
    assert stats["staleness_rounds"] == pytest.approx(5 - (3 + 3 + 0 + 0) / 4)  # unknown versions do not count
    assert buffer.stats()["staleness_rounds"] == pytest.approx(3 - 1.5)
    assert (stats["size"], stats["capacity"], stats["inserts"], stats["item_age_mean"]) == (6, 8, 6, 1.0)  # two are pinned


def test_an_empty_buffer_can_be_described(make_buffer: Build) -> None:
    buffer = make_buffer()
    assert buffer.stats()["class_entropy"] == 0.0
    assert all(len(values) == 0 for values in buffer.analysis().values())
    assert buffer.summary().num_batches == 0


def test_the_index_of_50000_items_takes_less_than_50_mb(make_batch: Make) -> None:
    config = ReplayConfig(
        synthetic=TableConfig(capacity=50_000, sampler=SelectorConfig(kind="prioritized"), remover=SelectorConfig(kind="fifo"))
    )
    batch = replace(make_batch(250), images=np.zeros((250, 1, 1, 1), np.uint8))
    tracemalloc.start()
    try:
        buffer = ReplayBuffer(config, 5, 100, ("a", "b"), np.random.default_rng(0))
        for _ in range(220):
            buffer.insert(batch, None)
        buffer.update("a", buffer.sample("a", 8, 256, 0).keys, np.ones((8, 256)))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert buffer.size == 50_000
    assert held < 50e6
