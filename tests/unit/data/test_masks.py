"""Images with masks: classes and the value that does not count, sizes, refusals, and the kinds of data sets that have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_samples import coloured, encoded

from raydfkd.data.datasets import load_dataset, load_unlabelled
from raydfkd.data.kinds.digits import DigitsConfig
from raydfkd.data.kinds.drawn_shapes import IGNORED, ShapesConfig, draw
from raydfkd.data.kinds.mask_folders import MaskFoldersConfig
from raydfkd.data.kinds.parquet import ParquetConfig
from raydfkd.data.kinds.torchvision_sets import TorchvisionConfig
from raydfkd.data.masks import load_masked
from raydfkd.errors import DataError

SHAPE = (3, 8, 8)


def mask_of(number: int, size: int = 8, values: int = 3) -> np.ndarray:
    return np.random.default_rng(100 + number).integers(0, values, (size, size), dtype=np.uint8)


def write(path: Path, images: list[np.ndarray], masks: list[np.ndarray], metadata: dict[str, str] | None = None) -> Path:
    """A Parquet file of images and masks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": [encoded(one) for one in images], "mask": [encoded(one) for one in masks]})
    pq.write_table(table.replace_schema_metadata(metadata or {}), path)
    return path


def test_masks_come_with_their_images_and_one_value_does_not_count(tmp_path: Path) -> None:
    images, masks = [coloured(i) for i in range(3)], [mask_of(i, values=4) for i in range(3)]
    metadata = {"classes": json.dumps(["sky", "road", "car", "void"]), "ignore_index": "3"}
    path = str(write(tmp_path / "scenes.parquet", images, masks, metadata))
    read = load_masked(ParquetConfig(path=path, split="train"), SHAPE, 3)
    np.testing.assert_array_equal(read.images, np.stack(images).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(read.labels, np.where(np.stack(masks) == 3, -1, np.stack(masks).astype(int)))
    assert read.labels.dtype == np.int16
    assert (read.classes, read.split, read.num_classes) == (("sky", "road", "car"), "train", 3)
    counts = [np.bincount(mask.ravel(), minlength=4)[:3].argmax() for mask in masks]
    assert read.image_classes.tolist() == counts
    other_order = load_masked(ParquetConfig(path=path), SHAPE, 3, ("car", "sky", "road"))
    np.testing.assert_array_equal(other_order.labels, np.array([1, 2, 0, -1])[read.labels])
    assert load_unlabelled(ParquetConfig(path=path), SHAPE).labels.tolist() == [-1] * 3


@pytest.mark.parametrize(("ignored", "expected"), [(0, [-1, 0, 1, 2]), (1, [0, -1, 1, 2]), (None, [0, 1, 2, 3])])
def test_classes_are_the_other_values_in_their_order(tmp_path: Path, ignored: int | None, expected: list[int]) -> None:
    mask = np.arange(4, dtype=np.uint8).repeat(16).reshape(8, 8)
    path = str(write(tmp_path / "m.parquet", [coloured(0)], [mask]))
    read = load_masked(ParquetConfig(path=path, ignore_index=ignored), SHAPE, 3 + (ignored is None))
    np.testing.assert_array_equal(read.labels[0], np.array(expected)[mask])


def test_resized_masks_keep_their_classes_and_lie_where_their_images_do(tmp_path: Path) -> None:
    """An image whose pixels say their class, of another height and width: both are cut and scaled alike."""
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 20:40], mask[20:, 40:] = 1, 2
    image = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)[mask]
    path = str(write(tmp_path / "m.parquet", [image], [mask]))
    read = load_masked(ParquetConfig(path=path), (3, 16, 16), 3)
    assert set(np.unique(read.labels)) == {0, 1, 2}
    by_colour = np.where(read.images[0, 0] > 127, 1, np.where(read.images[0, 1] > 127, 2, 0))
    edges = (np.diff(by_colour, axis=0) != 0).sum() + (np.diff(by_colour, axis=1) != 0).sum()
    assert (by_colour != read.labels[0]).sum() <= edges / 4, "they differ at most where a scaled edge falls within a pixel"
    assert (read.labels[0][:, 7:9] == 1).all()


@pytest.mark.parametrize(
    ("mask", "settings", "message"),
    [
        (mask_of(0, 6), {}, r"the mask of image 0 of .* is 6x6 pixels and the image 8x8: give each image a mask of its size"),
        (mask_of(0, 8, 5) | 4, {}, r"the mask of image 0 of .* has value \d, which is class \d, outside \[0, 3\): change"),
        (np.full((8, 8), 255, np.uint8), {}, "which is class 255, outside .* or set ignore_index if that value does not count"),
        (np.full((8, 8), 9, np.uint8), {"ignore_index": 2}, r"has value 9, which is class 8, outside \[0, 3\) \(the value 2"),
        (coloured(0), {}, "has pixel mode RGB, and a mask holds one class a pixel: store masks as pictures of one channel"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, mask: np.ndarray, settings: dict[str, Any], message: str) -> None:
    path = str(write(tmp_path / "m.parquet", [coloured(0)], [mask]))
    with pytest.raises(DataError, match=message):
        load_masked(ParquetConfig(path=path, **settings), SHAPE, 3)


def test_what_has_no_masks_is_refused(tmp_path: Path, write_parquet) -> None:  # type: ignore[no-untyped-def]
    path = str(write_parquet([encoded(coloured(0))], [1]))
    with pytest.raises(DataError, match=r"has no column 'mask' \(it has image, label\): correct mask_column"):
        load_masked(ParquetConfig(path=path), SHAPE, 3)
    with pytest.raises(DataError, match="column 'label' holds int64, not encoded image bytes: correct mask_column"):
        load_masked(ParquetConfig(path=path, mask_column="label"), SHAPE, 3)
    with pytest.raises(DataError, match="a data set of kind 'digits' has no masks: give one of kind mask_folders, named, parq"):
        load_masked(DigitsConfig(), (1, 8, 8), 3)
    with pytest.raises(DataError, match="torchvision CIFAR10 is not known here to have masks"):
        load_masked(TorchvisionConfig(name="CIFAR10", root=str(tmp_path)), SHAPE, 3)
    scenes = str(write(tmp_path / "s.parquet", [coloured(0)], [mask_of(0)], {"classes": '["a", "b", "c"]'}))
    with pytest.raises(DataError, match="have 3 classes, and the task has num_classes 2: change num_classes or the data set"):
        load_masked(ParquetConfig(path=scenes), SHAPE, 2)
    with pytest.raises(DataError, match="has no column 'label'"):
        load_dataset(ParquetConfig(path=scenes), SHAPE, 3)


def test_a_damaged_mask_takes_its_image_along(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images, masks = [encoded(coloured(i)) for i in range(3)], [encoded(mask_of(i)) for i in range(3)]
    masks[1] = masks[1][:30]
    pq.write_table(pa.table({"image": images, "mask": masks}), tmp_path / "m.parquet")
    read = load_masked(ParquetConfig(path=str(tmp_path / "m.parquet")), SHAPE, 3)
    assert (len(read), read.num_skipped) == (2, 1)
    np.testing.assert_array_equal(read.labels, np.stack([mask_of(0), mask_of(2)]))
    np.testing.assert_array_equal(read.images[1], coloured(2).transpose(2, 0, 1))


def test_shapes_are_always_the_same_and_have_every_class() -> None:
    train, test = (load_masked(ShapesConfig(split=split, max_images=40), (3, 32, 32), 4) for split in ("train", "test"))
    again = load_masked(ShapesConfig(split="train", max_images=40), (3, 32, 32), 4)
    np.testing.assert_array_equal(again.images, train.images)
    np.testing.assert_array_equal(again.labels, train.labels)
    assert not (train.images == test.images).all(axis=(1, 2, 3)).any()
    shares = np.bincount(train.labels.ravel() + 1, minlength=5) / train.labels.size
    assert (shares[1:] > 0.04).all(), "every class fills some of the pixels"
    assert 0.02 < shares[0] < 0.2, "outlines do not count"
    image, mask = draw(0, "train", 32)
    assert (image.dtype, mask.dtype, image.shape) == (np.uint8, np.uint8, (32, 32, 3))
    assert set(np.unique(mask)) <= {0, 1, 2, 3, IGNORED}
    with pytest.raises(DataError, match=r"no labels: set task\.kind to segmentation"):
        load_dataset(ShapesConfig(), (3, 32, 32), 4)


def put(folder: Path, name: str, pixels: np.ndarray) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(pixels))


def test_folders_of_images_and_masks_are_paired_by_name(tmp_path: Path) -> None:
    for i, name in enumerate(("a/one", "b/one", "two")):
        put(tmp_path / "images", f"{name}.png", coloured(i))
        put(tmp_path / "masks", f"{name}.png", mask_of(i, values=4))
    folders = {"images": str(tmp_path / "images"), "masks": str(tmp_path / "masks")}
    config = MaskFoldersConfig(**folders, ignore_index=0, classes=("none", "a", "b", "c"))
    read = load_masked(config, SHAPE, 3)
    np.testing.assert_array_equal(read.labels, np.stack([mask_of(i, values=4) for i in range(3)]).astype(int) - 1)
    np.testing.assert_array_equal(read.images[1], coloured(1).transpose(2, 0, 1))
    assert read.classes == ("a", "b", "c")
    (tmp_path / "masks" / "two.png").unlink()
    with pytest.raises(DataError, match=r"image .*two.png has no mask: there is no picture two in .*masks; add it"):
        load_masked(config, SHAPE, 3)


def test_pascal_voc_and_cityscapes_as_torchvision_lays_them_out(tmp_path: Path) -> None:
    from PIL import Image

    voc = tmp_path / "VOCdevkit" / "VOC2012"
    put(voc / "JPEGImages", "s.jpg", coloured(0))
    palette = Image.fromarray(np.where(mask_of(0) == 2, 255, mask_of(0)).astype(np.uint8)).convert("P")
    (voc / "SegmentationClass").mkdir()
    palette.putpalette([i for i in range(256) for _ in range(3)])
    palette.save(voc / "SegmentationClass" / "s.png")
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("s\n")
    read = load_masked(TorchvisionConfig(name="VOCSegmentation", root=str(tmp_path), split="val"), SHAPE, 21)
    np.testing.assert_array_equal(read.labels[0], np.where(mask_of(0) == 2, -1, mask_of(0).astype(int)))
    assert read.classes[:2] == ("background", "aeroplane")

    city = tmp_path / "city"
    put(city / "leftImg8bit" / "val" / "bonn", "bonn_0_leftImg8bit.png", coloured(1))
    label_ids = np.array([7, 8, 0, 33], np.uint8).repeat(16).reshape(8, 8)  # road, sidewalk, unlabelled, bicycle
    put(city / "gtFine" / "val" / "bonn", "bonn_0_gtFine_labelIds.png", label_ids)
    read = load_masked(TorchvisionConfig(name="Cityscapes", root=str(city), split="val"), SHAPE, 19)
    np.testing.assert_array_equal(read.labels[0], np.array([0, 1, -1, 18]).repeat(16).reshape(8, 8))
    assert (read.classes[0], read.classes[18]) == ("road", "bicycle")
    with pytest.raises(DataError, match=r"torchvision Cityscapes \(val\) cannot be read in"):
        load_masked(TorchvisionConfig(name="Cityscapes", root=str(tmp_path / "no"), split="val"), SHAPE, 19)
