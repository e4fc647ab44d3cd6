import json
import weakref
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from raydfkd.errors import DataError
from raydfkd.replay.arrow import from_table, to_table
from raydfkd.replay.buffer import ReplayBuffer, ShardView
from raydfkd.replay.config import TableConfig
from raydfkd.replay.snapshot import read_snapshot, write_snapshot
from raydfkd.types import SyntheticBatch

Make = Callable[..., SyntheticBatch]
Build = Callable[..., ReplayBuffer]


def _assert_same_batch(left: SyntheticBatch, right: SyntheticBatch) -> None:
    for field in fields(SyntheticBatch):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, field.name


@pytest.fixture
def filled(make_batch: Make, make_buffer: Build) -> ReplayBuffer:
    buffer = make_buffer(capacity=10, consumers=("a", "b"), pinned=TableConfig(capacity=4), pinned_fraction=0.3)
    for seed, source in enumerate(["ssdkd", "collected", "ssdkd", "ssdkd"]):
        batch = make_batch(4, seed, source=source, priorities=np.arange(1, 5, dtype=np.float32))
        buffer.insert(batch, batch)
    buffer.update("b", buffer.sample("b", 2, 5, 0).keys, np.arange(10.0))
    return buffer


def _restored(folder: Path, make_buffer: Build) -> ReplayBuffer:
    buffer = make_buffer(capacity=10, consumers=("a", "b"), pinned=TableConfig(capacity=4), pinned_fraction=0.3, seed=99)
    state, shards = read_snapshot(folder)
    buffer.load_state_dict(state, dict(shards))
    return buffer


def test_the_index_of_items_without_histograms_has_the_names_of_format_2(filled: ReplayBuffer) -> None:
    """So that what versions before histograms wrote is read, and they read what is written now."""
    state = filled.state_dict()
    table = {
        *("keys", "live", "classes", "confidences", "shard_ids", "rows", "class_counts", "priorities"),
        *("num_invalid_priorities", "shard_texts", "shard_numbers", "shard_slots", "shard_keys"),
    }
    selectors = {
        "synthetic": {"selector0/values", "selector1/values", "selector2/order", "selector2/next"},
        "pinned": {"selector0/present", "selector1/present", "selector2/order", "selector2/next"},
    }
    names = {f"{name}/{key}" for name, own in selectors.items() for key in table | own}
    assert set(state) == {"header", "carries", *names}
    assert json.loads(str(state["header"]))["format"] == 2


@pytest.mark.parametrize("dense_targets", [False, True])
@pytest.mark.parametrize("with_priorities", [False, True])
def test_a_batch_becomes_an_arrow_table_and_comes_back(make_batch: Make, dense_targets: bool, with_priorities: bool) -> None:
    batch = make_batch(3, priorities=np.ones(3, np.float32) if with_priorities else None, student_version=7)
    if dense_targets:
        batch = replace(batch, targets=np.arange(48, dtype=np.int16).reshape(3, 4, 4))
    _assert_same_batch(from_table(to_table(batch)), batch)


def test_another_arrow_table_is_refused() -> None:
    import pyarrow as pa

    with pytest.raises(DataError, match="is not a synthetic batch"):
        from_table(pa.table({"image": [1, 2]}))


def test_a_restored_buffer_equals_the_original_and_goes_on_alike(
    tmp_path: Path, filled: ReplayBuffer, make_batch: Make, make_buffer: Build
) -> None:
    write_snapshot(tmp_path, filled)
    restored = _restored(tmp_path, make_buffer)
    for before, after in zip(filled.shards_after(-1), restored.shards_after(-1), strict=True):
        np.testing.assert_array_equal(before.keys, after.keys)
        np.testing.assert_array_equal(before.slots, after.slots)
        _assert_same_batch(after.payload, before.payload)
    for consumer in ("a", "b"):
        np.testing.assert_array_equal(filled.analysis(consumer)["priorities"], restored.analysis(consumer)["priorities"])
    stats = (buffer.stats() for buffer in (filled, restored))
    assert len({json.dumps(s, default=np.ndarray.tolist) for s in stats}) == 1
    for step in range(5):
        samples = [buffer.sample("b", 2, 7, step) for buffer in (filled, restored)]
        for field in fields(samples[0]):
            np.testing.assert_array_equal(*(getattr(sample, field.name) for sample in samples))
        for buffer in (filled, restored):
            buffer.update("b", samples[0].keys, np.arange(14.0))
            buffer.insert(make_batch(3, step), None)


def test_each_shard_is_written_once_and_retired_ones_go(tmp_path: Path, filled: ReplayBuffer, make_batch: Make) -> None:
    asked: list[int] = []

    def get_batch(view: object) -> SyntheticBatch:
        asked.append(view.shard_id)  # type: ignore[attr-defined]
        return view.payload  # type: ignore[attr-defined,no-any-return]

    write_snapshot(tmp_path, filled, get_batch)
    assert asked == [0, 1, 2, 3]
    batch = make_batch(4, 9)
    filled.insert(batch, batch)
    write_snapshot(tmp_path, filled, get_batch)
    assert asked == [0, 1, 2, 3, 4]
    live = [view.shard_id for view in filled.shards_after(-1)]
    assert live == [1, 2, 3, 4]
    assert len(list((tmp_path / "shards").iterdir())) == 4
    assert len(list(tmp_path.glob("index-*"))) == 1
    assert [shard_id for shard_id, _ in read_snapshot(tmp_path)[1]] == live


def test_a_restored_buffer_does_not_take_older_files_for_its_own(
    tmp_path: Path, filled: ReplayBuffer, make_batch: Make, make_buffer: Build
) -> None:
    write_snapshot(tmp_path / "old", filled)
    restored = _restored(tmp_path / "old", make_buffer)
    lost, redone = make_batch(2, 50), make_batch(2, 51)
    filled.insert(lost, lost)
    write_snapshot(tmp_path / "new", filled)
    restored.insert(redone, redone)  # the same shard id with other pixels
    write_snapshot(tmp_path / "new", restored)
    _assert_same_batch(read_snapshot(tmp_path / "new")[1][-1][1], redone)


def test_a_kill_before_the_manifest_leaves_the_older_snapshot(
    tmp_path: Path, filled: ReplayBuffer, make_batch: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_snapshot(tmp_path, filled)
    for seed in range(4):
        batch = make_batch(4, seed)
        filled.insert(batch, batch)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("raydfkd.replay.snapshot.write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            write_snapshot(tmp_path, filled)
    assert [shard_id for shard_id, _ in read_snapshot(tmp_path)[1]] == [0, 1, 2, 3]
    write_snapshot(tmp_path, filled)
    assert [shard_id for shard_id, _ in read_snapshot(tmp_path)[1]] == [1, 5, 6, 7]


def _truncate_shard(folder: Path) -> None:
    path = sorted((folder / "shards").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-100])


def _flip_shard(folder: Path) -> None:
    path = sorted((folder / "shards").iterdir())[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def _remove_shard(folder: Path) -> None:
    sorted((folder / "shards").iterdir())[0].unlink()


def _truncate_index(folder: Path) -> None:
    path = next(folder.glob("index-*"))
    path.write_bytes(path.read_bytes()[:200])


def _truncate_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:50])


def _remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 1}')


def _newer_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 2}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate_shard, r"has \d+ of its \d+ bytes"),
        (_flip_shard, "its checksum differs"),
        (_remove_shard, "No such file"),
        (_truncate_index, r"has 200 of its \d+ bytes"),
        (_truncate_manifest, "is damaged"),
        (_remove_manifest, "holds no replay snapshot"),
        (_empty_manifest, "is damaged"),
        (_newer_manifest, "is not of format 1"),
    ],
)
def test_a_damaged_snapshot_is_refused_in_one_sentence(
    tmp_path: Path, filled: ReplayBuffer, damage: Callable[[Path], None], message: str
) -> None:
    write_snapshot(tmp_path, filled)
    damage(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read_snapshot(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_state_of_another_buffer_is_refused(filled: ReplayBuffer, make_buffer: Build) -> None:
    with pytest.raises(DataError, match="does not fit a buffer of"):
        make_buffer(capacity=11, consumers=("a", "b")).load_state_dict(filled.state_dict(), {})


def test_a_damaged_state_is_refused(filled: ReplayBuffer, make_buffer: Build) -> None:
    state = filled.state_dict()
    del state["synthetic/keys"]
    other = make_buffer(capacity=10, consumers=("a", "b"), pinned=TableConfig(capacity=4), pinned_fraction=0.3)
    with pytest.raises(DataError, match="a replay state is damaged"):
        other.load_state_dict(state, {})


def test_shards_without_pixels_are_forgotten_on_restore(filled: ReplayBuffer, make_buffer: Build) -> None:
    other = make_buffer(capacity=10, consumers=("a", "b"), pinned=TableConfig(capacity=4), pinned_fraction=0.3)
    other.load_state_dict(filled.state_dict(), {3: "pixels"})
    assert [view.shard_id for view in other.shards_after(-1)] == [3]
    assert other.size == 4


def test_payloads_evicted_while_a_snapshot_is_written_are_let_go(tmp_path: Path, make_batch: Make, make_buffer: Build) -> None:
    buffer = make_buffer(capacity=12)
    for seed in range(3):
        batch = make_batch(4, seed)
        buffer.insert(batch, batch)
    first = weakref.ref(buffer.payload(0))
    del batch
    alive: list[bool] = []

    def get_batch(view: ShardView) -> SyntheticBatch:
        if view.shard_id == 0:
            buffer.insert(make_batch(4, 9), None)  # evicts shard 0
        alive.append(first() is not None)
        found: SyntheticBatch = view.payload
        return found

    write_snapshot(tmp_path, buffer, get_batch)
    assert alive == [True, False, False]
