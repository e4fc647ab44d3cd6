"""Any rows of a data set: the same images as from reading it whole; and data sets of decoded pixels, as raydfkd writes them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_samples import coloured, encoded

from raydfkd.data.config import DatasetConfig, DigitsConfig, ImageFolderConfig, ParquetConfig
from raydfkd.data.datasets import load_dataset, load_unlabelled
from raydfkd.data.decoding import Decoder
from raydfkd.data.rows import open_rows
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
