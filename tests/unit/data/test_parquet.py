from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_samples import coloured, encoded
from real_data import real

from raydfkd.data.catalogue import CATALOGUE
from raydfkd.data.datasets import load_dataset
from raydfkd.data.kinds import parquet
from raydfkd.data.kinds.parquet import ParquetConfig
from raydfkd.errors import DataError

WriteParquet = Callable[..., Path]
SHAPE = (3, 8, 8)


def test_pixels_labels_and_names_come_back(write_parquet: WriteParquet) -> None:
    path = write_parquet([encoded(coloured(i)) for i in range(10)], [i % 2 for i in range(10)], ["cat", "dog"])
    dataset = load_dataset(ParquetConfig(path=str(path), split="val"), SHAPE, 2)
    assert dataset.images.dtype == np.uint8
    assert dataset.images.flags.c_contiguous
    np.testing.assert_array_equal(dataset.images, np.stack([coloured(i).transpose(2, 0, 1) for i in range(10)]))
    np.testing.assert_array_equal(dataset.labels, np.arange(10) % 2)
    assert dataset.labels.dtype == np.int64
    assert dataset.classes == ("cat", "dog")
    assert (dataset.name, dataset.split, dataset.source, dataset.num_skipped) == ("images", "val", str(path), 0)


def test_hugging_face_structs_and_large_files_in_chunks(write_parquet: WriteParquet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "CHUNK", 3)
    path = write_parquet([encoded(coloured(i)) for i in range(10)], list(range(10)), struct=True)
    dataset = load_dataset(ParquetConfig(path=str(path)), SHAPE, 10)
    np.testing.assert_array_equal(dataset.images[7], coloured(7).transpose(2, 0, 1))
    np.testing.assert_array_equal(dataset.labels, np.arange(10))
    assert dataset.classes == tuple("0123456789")


def test_a_folder_or_a_list_of_files_is_one_data_set(write_parquet: WriteParquet, tmp_path: Path) -> None:
    first = write_parquet([encoded(coloured(i)) for i in range(3)], [0, 1, 2], name="a.parquet")
    second = write_parquet([encoded(coloured(i)) for i in range(3, 8)], [3, 4, 5, 6, 7], name="b.parquet")
    for path in (str(tmp_path), [str(first), str(second)]):
        dataset = load_dataset(ParquetConfig(path=path), SHAPE, 8)
        np.testing.assert_array_equal(dataset.labels, np.arange(8))
        np.testing.assert_array_equal(dataset.images[5], coloured(5).transpose(2, 0, 1))


def test_max_images_are_evenly_spaced_over_all_files(write_parquet: WriteParquet, tmp_path: Path) -> None:
    write_parquet([encoded(coloured(i)) for i in range(6)], list(range(6)), name="a.parquet")
    write_parquet([encoded(coloured(i)) for i in range(6, 10)], [6, 7, 8, 9], name="b.parquet")
    dataset = load_dataset(ParquetConfig(path=str(tmp_path), max_images=5), SHAPE, 10)
    np.testing.assert_array_equal(dataset.labels, [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(dataset.images[4], coloured(8).transpose(2, 0, 1))


def test_other_columns(write_parquet: WriteParquet) -> None:
    path = write_parquet([encoded(coloured(0))], [1], columns=("img", "fine_label"))
    config = ParquetConfig(path=str(path), image_column="img", label_column="fine_label")
    assert load_dataset(config, SHAPE, 2).labels.tolist() == [1]
    with pytest.raises(DataError, match=r"no column 'image'.*it has img, fine_label.*correct image_column"):
        load_dataset(ParquetConfig(path=str(path)), SHAPE, 2)
    with pytest.raises(DataError, match="holds int64, not encoded image bytes"):
        load_dataset(config.model_copy(update={"image_column": "fine_label"}), SHAPE, 2)
    with pytest.raises(DataError, match="holds binary, not integer classes"):
        load_dataset(config.model_copy(update={"label_column": "img"}), SHAPE, 2)


def test_a_corrupt_image_is_skipped_counted_and_named(write_parquet: WriteParquet, caplog: pytest.LogCaptureFixture) -> None:
    images = [encoded(coloured(i)) for i in range(6)]
    images[2] = b"no image"
    images[4] = images[4][: len(images[4]) // 2]
    images[5] = None
    path = write_parquet(images, list(range(6)))
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(ParquetConfig(path=str(path)), SHAPE, 6)
    assert dataset.num_skipped == 3
    np.testing.assert_array_equal(dataset.labels, [0, 1, 3])
    np.testing.assert_array_equal(dataset.images[2], coloured(3).transpose(2, 0, 1))
    (record,) = caplog.records
    assert "3 of 6 images" in record.getMessage()
    assert f"image 2 of {path}" in record.getMessage()


def test_all_images_corrupt(write_parquet: WriteParquet) -> None:
    path = write_parquet([b"no", b"image"], [0, 1])
    with pytest.raises(DataError, match=r"none of the 2 images .* could be decoded \(the first: image 0 of"):
        load_dataset(ParquetConfig(path=str(path)), SHAPE, 2)


@pytest.mark.parametrize("file_format", ["EPS", "PCX"])
def test_only_plain_raster_formats_are_opened(write_parquet: WriteParquet, file_format: str) -> None:
    """PIL would hand EPS to Ghostscript; PCX it reads itself, so it shows that the list of formats is what refuses."""
    path = write_parquet([encoded(coloured(0), file_format)], [0])
    with pytest.raises(DataError, match="could be decoded"):
        load_dataset(ParquetConfig(path=str(path)), SHAPE, 2)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_one_sentence(write_parquet: WriteParquet, keep: float) -> None:
    path = write_parquet([encoded(coloured(i)) for i in range(10)], list(range(10)))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match="cannot be read as Parquet") as caught:
        load_dataset(ParquetConfig(path=str(path)), SHAPE, 10)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damage_inside_a_file_is_one_sentence(write_parquet: WriteParquet) -> None:
    path = write_parquet([encoded(coloured(i)) for i in range(10)], list(range(10)))
    content = bytearray(path.read_bytes())
    content[4:600] = b"\xff" * 596
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as Parquet") as caught:
        load_dataset(ParquetConfig(path=str(path)), SHAPE, 10)
    assert "\n" not in str(caught.value)


def test_missing_and_empty(write_parquet: WriteParquet, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.parquet does not exist"):
        load_dataset(ParquetConfig(path=str(tmp_path / "gone.parquet")), SHAPE, 2)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(DataError, match=r"holds no \*\.parquet file"):
        load_dataset(ParquetConfig(path=str(tmp_path / "hollow")), SHAPE, 2)
    path = write_parquet([], np.array([], dtype=np.int64))
    with pytest.raises(DataError, match="is empty"):
        load_dataset(ParquetConfig(path=str(path)), SHAPE, 2)


def test_labels_outside_the_task_and_missing_ones(write_parquet: WriteParquet) -> None:
    images = [encoded(coloured(i)) for i in range(3)]
    path = write_parquet(images, [0, 7, 1])
    with pytest.raises(DataError, match=r"image 1 of .* has label 7, outside \[0, 2\)"):
        load_dataset(ParquetConfig(path=str(path)), SHAPE, 2)
    path = write_parquet(images, [0, -1, 1])
    with pytest.raises(DataError, match="has label -1"):
        load_dataset(ParquetConfig(path=str(path)), SHAPE, 2)
    path = write_parquet(images, [0, None, 1])
    with pytest.raises(DataError, match="rows without a label"):
        load_dataset(ParquetConfig(path=str(path)), SHAPE, 2)


def test_another_number_of_classes_than_the_tasks(write_parquet: WriteParquet) -> None:
    path = write_parquet([encoded(coloured(0))], [0], ["cat", "dog"])
    with pytest.raises(DataError, match="has 2 classes but the task has num_classes 100"):
        load_dataset(ParquetConfig(path=str(path)), SHAPE, 100)


@pytest.mark.real_data
def test_cifar10() -> None:
    dataset = load_dataset(ParquetConfig(path=str(real("cifar10/test.parquet")), max_images=1000), (3, 32, 32), 10)
    assert dataset.images.shape == (1000, 3, 32, 32)
    assert dataset.classes[3] == "cat"
    assert np.bincount(dataset.labels, minlength=10).min() > 60
    np.testing.assert_allclose(dataset.images.mean((0, 2, 3)) / 255, CATALOGUE["cifar10"].mean, atol=0.02)
