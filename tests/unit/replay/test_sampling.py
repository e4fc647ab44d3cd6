"""What ReplayBuffer.sample returns: weights, annealing, and the split between tables."""

from collections.abc import Callable

import numpy as np
import pytest

from raydfkd.replay.buffer import ReplayBuffer
from raydfkd.replay.config import SelectorConfig, TableConfig
from raydfkd.replay.importance import importance_exponent
from raydfkd.types import SyntheticBatch

Make = Callable[..., SyntheticBatch]
Build = Callable[..., ReplayBuffer]

PRIORITIES = np.array([0.1, 0.5, 1.0, 2.0, 8.0], np.float32)


@pytest.mark.parametrize(
    ("step", "beta"), [(0, 0.4), (50, 0.7), (100, 1.0), (1000, 1.0)], ids=["first", "middle", "last", "beyond"]
)
def test_importance_weights_equal_the_closed_form(make_batch: Make, make_buffer: Build, step: int, beta: float) -> None:
    """(N P)^-beta, SSD-KD Eq. 5 as printed: not divided by anything unless the settings say so."""
    powered = (PRIORITIES.astype(np.float64) + 1e-6) ** 0.6
    for settings in ({}, {"normalize_importance": "batch"}):
        buffer = make_buffer(capacity=9, total_steps=101, sampler=SelectorConfig(kind="prioritized", **settings))
        buffer.insert(make_batch(5, priorities=PRIORITIES), None)
        sample = buffer.sample("small", 6, 8, step)
        weights = (5 * (powered / powered.sum())[sample.slots]) ** -beta
        expected = weights / weights.max(axis=1, keepdims=True) if settings else weights
        np.testing.assert_allclose(sample.importance_weights, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("final", "step", "beta"), [(None, 0, 0.4), (None, 99, 0.4), (0.4, 99, 0.4), (0.0, 99, 0.0), (0.8, 0, 0.4), (0.8, 99, 0.8)]
)
def test_beta_runs_from_its_first_to_its_final_value(final: float | None, step: int, beta: float) -> None:
    config = SelectorConfig(kind="prioritized", importance_exponent=0.4, importance_exponent_final=final)
    assert importance_exponent(config, step, 100) == pytest.approx(beta)


@pytest.mark.parametrize("kind", ["uniform", "class_balanced"])
def test_samplers_without_priorities_weigh_all_alike(make_batch: Make, make_buffer: Build, kind: str) -> None:
    buffer = make_buffer(capacity=9, kind=kind)
    buffer.insert(make_batch(5), None)
    sample = buffer.sample("small", 2, 8, 0)
    assert (sample.importance_weights == 1).all()


def test_the_dtypes_and_shapes_are_the_contracts(make_batch: Make, make_buffer: Build) -> None:
    for pinned in (None, TableConfig(capacity=5)):
        buffer = make_buffer(capacity=9, pinned=pinned)
        buffer.insert(make_batch(5), None)
        if pinned is not None:
            buffer.insert(make_batch(5, source="collected"), None)
        sample = buffer.sample("small", 3, 4, 0)
        dtypes = {name: str(values.dtype) for name, values in vars(sample).items()}
        assert dtypes == {
            "keys": "int64",
            "slots": "int32",
            "importance_weights": "float32",
            "ages": "int32",
        }
        assert {values.shape for values in vars(sample).values()} == {(3, 4)}


def test_ages_count_the_batches_since(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=9, pinned=TableConfig(capacity=3), pinned_fraction=0.5)
    for source in ("ssdkd", "collected", "ssdkd"):
        buffer.insert(make_batch(3, source=source), None)
    sample = buffer.sample("small", 4, 16, 0)
    shard_ids, _ = buffer.locate(sample.slots)
    np.testing.assert_array_equal(sample.ages, 2 - shard_ids)
    np.testing.assert_array_equal(sample.keys % buffer.total_slots, sample.slots)


@pytest.mark.parametrize(("fraction", "size"), [(0.1, 10), (0.3, 16), (0.25, 3), (1 / 3, 4), (0.01, 8)])
def test_the_pinned_share_is_kept_with_carry(make_batch: Make, make_buffer: Build, fraction: float, size: int) -> None:
    sampler = SelectorConfig(kind="prioritized", normalize_importance="batch")
    pinned_table = TableConfig(capacity=5, sampler=sampler)
    buffer = make_buffer(capacity=9, sampler=sampler, pinned=pinned_table, pinned_fraction=fraction)
    buffer.insert(make_batch(9, priorities=np.arange(9, dtype=np.float32)), None)
    buffer.insert(make_batch(5, source="collected", priorities=PRIORITIES), None)
    samples = [buffer.sample("small", n, size, 0) for n in (1, 5, 2, 22)]
    pinned = np.concatenate([sample.slots >= 9 for sample in samples])
    weights = np.concatenate([sample.importance_weights for sample in samples])
    in_all = np.cumsum(pinned.sum(axis=1))
    np.testing.assert_array_equal(in_all, np.floor(fraction * size * np.arange(1, 31) + 1e-9))
    for table in (pinned, ~pinned):  # each table's largest weight in a batch is 1
        present = table.any(axis=1)
        assert (np.where(table, weights, 0).max(axis=1)[present] == 1).all()
    assert np.isfinite(weights).all()
    assert (weights > 0).all()


def test_pinned_items_stand_anywhere_in_a_batch(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=9, pinned=TableConfig(capacity=5), pinned_fraction=0.5)
    buffer.insert(make_batch(9), None)
    buffer.insert(make_batch(5, source="collected"), None)
    share_by_place = (buffer.sample("small", 2000, 8, 0).slots >= 9).mean(axis=0)
    assert np.abs(share_by_place - 0.5).max() < 4 * np.sqrt(0.25 / 2000)


@pytest.mark.parametrize(("inflation", "share"), [(0.0, 0.0), (1.0, 1 / 4), (3.0, 1 / 2), (None, 4 / 7)])
def test_inflation_counts_each_pinned_item_that_many_times(
    make_batch: Make, make_buffer: Build, inflation: float | None, share: float
) -> None:
    """N |pinned| / (N |pinned| + |synthetic|); without N it is the whole times that 5 go into the capacity of 20."""
    buffer = make_buffer(capacity=20, pinned=TableConfig(capacity=5), inflation=inflation)
    buffer.insert(make_batch(5, source="collected"), None)
    assert (buffer.sample("small", 2, 8, 0).slots >= 20).all()  # an empty table's share goes to the other
    buffer.insert(make_batch(15), None)
    assert (buffer.sample("small", 70, 8, 0).slots >= 20).sum() == int(70 * 8 * share + 1e-9)


def test_an_empty_pinned_table_gets_nothing(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=20, pinned=TableConfig(capacity=5), pinned_fraction=0.5)
    buffer.insert(make_batch(15), None)
    assert (buffer.sample("small", 2, 8, 0).slots < 20).all()


def test_pinned_batches_are_no_generators_batches(make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=20, pinned=TableConfig(capacity=5))
    buffer.insert(make_batch(5, source="collected"), None)
    buffer.insert(make_batch(4), None)
    assert [view.shard_id for view in buffer.shards_after(-1)] == [0, 1]
    assert (buffer.num_shards, buffer.num_batches, buffer.num_inserts) == (2, 1, 4)
    assert buffer.summary().num_batches == 1


def test_a_consumers_draws_do_not_depend_on_the_others(make_batch: Make, make_buffer: Build) -> None:
    alone, beside = (make_buffer(capacity=9, consumers=("a", "b")) for _ in range(2))
    for buffer in (alone, beside):
        buffer.insert(make_batch(9), None)
    beside.update("b", beside.sample("b", 3, 8, 0).keys, np.full((3, 8), 99.0))
    np.testing.assert_array_equal(alone.sample("a", 3, 8, 0).keys, beside.sample("a", 3, 8, 0).keys)


def test_several_batches_at_once_are_those_drawn_one_by_one(make_batch: Make, make_buffer: Build) -> None:
    together, single = (make_buffer(capacity=9) for _ in range(2))
    for buffer in (together, single):
        buffer.insert(make_batch(9), None)
    expected = together.sample("small", 4, 8, 0).keys
    np.testing.assert_array_equal(np.concatenate([single.sample("small", 1, 8, 0).keys for _ in range(4)]), expected)
