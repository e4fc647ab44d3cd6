"""Any rows of a data set: the same images as from reading it whole; and data sets of decoded pixels, as raydfkd writes them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_samples import coloured, encoded

from raydfkd.data.dataset_kind import DatasetConfig
from raydfkd.data.datasets import load_dataset, load_unlabelled
from raydfkd.data.decoding import Decoder
from raydfkd.data.kinds import open_rows
from raydfkd.data.kinds.digits import DigitsConfig
from raydfkd.data.kinds.image_folder import ImageFolderConfig
from raydfkd.data.kinds.parquet import ParquetConfig
from raydfkd.errors import DataError
from raydfkd.replay.arrow import to_parquet
from raydfkd.types import SyntheticBatch

NUM = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 23 images as two Parquet files in row groups of four, of Hugging Face's structs, and as files."""
    folder = tmp_path_factory.mktemp("rows")
    for name in ("plain", "struct", "files"):
        (folder / name).mkdir()
    images = [encoded(coloured(i)) for i in range(NUM)]
    for name, first, last in (("a", 0, 10), ("b", 10, NUM)):
        plain = pa.table({"image": pa.array(images[first:last], pa.binary()), "other": list(range(first, last))})
        pq.write_table(plain, folder / "plain" / f"{name}.parquet", row_group_size=4)
        struct = pa.table({"image": [{"bytes": one, "path": None} for one in images[first:last]]})
        pq.write_table(struct, folder / "struct" / f"{name}.parquet", row_group_size=4)
    for i, image in enumerate(images):
        (folder / "files" / f"{i:02d}.png").write_bytes(image)
    return folder


def decoded(config: DatasetConfig, rows: list[int], shape: tuple[int, int, int]) -> np.ndarray:
    """As a worker in another process does it."""
    reader = pickle.loads(pickle.dumps(open_rows(config)))
    found = reader.read(np.array(rows))
    with Decoder(shape, config.convert) as decoder:
        images, failed = decoder.decode_all(found.items, found.opener, found.name)
    assert failed == []
    return images


@pytest.mark.parametrize("max_images", [None, 9])
@pytest.mark.parametrize("kind", ["plain", "struct", "files", "digits"])
def test_rows_are_those_of_the_whole(folder: Path, kind: str, max_images: int | None) -> None:
    shape = (3, 8, 8)
    config: DatasetConfig
    if kind == "digits":
        shape, config = (1, 8, 8), DigitsConfig(max_images=max_images or NUM)
    elif kind == "files":
        config = ImageFolderConfig(path=str(folder / kind), max_images=max_images)
    else:
        config = ParquetConfig(path=str(folder / kind), max_images=max_images)
    whole = load_unlabelled(config, shape).images
    assert open_rows(config).total == len(whole) == (max_images or NUM)
    last = len(whole) - 1
    for rows in ([0], [last], [1, 3, last], list(range(len(whole)))):
        np.testing.assert_array_equal(decoded(config, rows, shape), whole[rows])


def test_a_row_s_name_says_where_it_is(folder: Path) -> None:
    found = open_rows(ParquetConfig(path=str(folder / "plain"))).read(np.array([3, 12]))
    assert [found.name(i) for i in range(2)] == [
        f"image {i} of {folder / 'plain' / name}" for i, name in ((3, "a.parquet"), (2, "b.parquet"))
    ]
    found = open_rows(ImageFolderConfig(path=str(folder / "files"))).read(np.array([5]))
    assert found.name(0) == str(folder / "files" / "05.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_raydfkd_wrote_are_read_like_any_others(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, channels, 8, 8)).astype(np.uint8)
    classes = np.arange(12, dtype=np.int32) % 3
    for name, here in (("a", slice(0, 5)), ("b", slice(5, 12))):
        count = len(images[here])
        batch = SyntheticBatch(
            images[here], np.full(count, -1), classes[here], np.ones(count, np.float32), "surrogate", "x", -1
        )
        (tmp_path / f"{name}.parquet").write_bytes(to_parquet(batch))
    config = ParquetConfig(path=str(tmp_path), label_column="teacher_class")
    np.testing.assert_array_equal(load_unlabelled(config, (channels, 8, 8)).images, images)
    labelled = load_dataset(config, (channels, 8, 8), 3)
    np.testing.assert_array_equal(labelled.images, images)
    assert labelled.labels.tolist() == classes.tolist()
    np.testing.assert_array_equal(decoded(config, [2, 7], (channels, 8, 8)), images[[2, 7]])
    with pytest.raises(DataError, match="the task's image_shape has"):
        load_unlabelled(config, (4 - channels, 8, 8))


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="is empty: it holds no image"):
        open_rows(ImageFolderConfig(path=str(tmp_path / "none")))


IN_ONE_GROUP = 800


def write_one_group(path: Path, seed: int) -> list[bytes]:
    """8 MB of images, undecodable, as one row group of pages of 160 KB."""
    rng = np.random.default_rng(seed)
    images = [rng.bytes(10_000) for _ in range(IN_ONE_GROUP)]
    table = pa.table({"image": pa.array(images, pa.binary())})
    pq.write_table(table, path, use_dictionary=False, data_page_size=1, write_batch_size=16)
    assert pq.read_metadata(path).num_row_groups == 1
    return images


@dataclass
class Watched:
    """What Arrow does while Parquet files are read: how many rows it decodes, and the most bytes it holds at once."""

    num_rows: int = 0
    peak: int = 0


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    found = Watched()
    plain = pq.ParquetFile.iter_batches

    def iter_batches(self: pq.ParquetFile, *args: Any, **kwargs: Any) -> Iterator[pa.RecordBatch]:
        for batch in plain(self, *args, **kwargs):
            found.num_rows += len(batch)
            found.peak = max(found.peak, pa.total_allocated_bytes())
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    return found


def test_a_large_row_group_is_never_held_whole(tmp_path: Path, watched: Watched) -> None:
    images = write_one_group(tmp_path / "one.parquet", seed=0)
    before = pa.total_allocated_bytes()
    found = open_rows(ParquetConfig(path=str(tmp_path / "one.parquet"))).read(np.arange(500, 520))
    assert found.items == images[500:520]
    assert 0 < watched.peak - before < sum(map(len, images))


def test_parts_one_after_the_other_go_through_a_row_group_once(tmp_path: Path, watched: Watched) -> None:
    images = write_one_group(tmp_path / "one.parquet", seed=0)
    reader = open_rows(ParquetConfig(path=str(tmp_path / "one.parquet")))
    for expected in (IN_ONE_GROUP, 2 * IN_ONE_GROUP):
        for first in range(0, IN_ONE_GROUP, 50):
            # As Ray does it: each part with a reader of its own. The last row comes again, as one that is repeated.
            rows = np.arange(max(0, first - 1), first + 50)
            assert pickle.loads(pickle.dumps(reader)).read(rows).items == [images[row] for row in rows]
        assert watched.num_rows == expected
    assert reader.read(np.array([3])).items == [images[3]]


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    for seed in range(2):
        images = write_one_group(path, seed)
        reader = open_rows(ParquetConfig(path=str(path)))
        assert reader.read(np.array([300 + seed])).items == [images[300 + seed]]
