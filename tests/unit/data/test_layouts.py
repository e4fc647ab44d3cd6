"""The published files of each data set, in its own layout, to Parquet."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import file_server
import numpy as np
import pyarrow.parquet as pq
import pytest
from image_samples import coloured, encoded
from published_files import change, put, stored, tarred

from raydfkd.data.catalogue import CATALOGUE
from raydfkd.data.datasets import load_dataset
from raydfkd.data.fetching.fetch import fetch
from raydfkd.data.fetching.layouts import eurosat_rows
from raydfkd.data.kinds.named import NamedConfig
from raydfkd.data.masks import load_masked
from raydfkd.errors import DataError


def idx(numbers: np.ndarray) -> bytes:
    """MNIST's format, packed."""
    header = bytes([0, 0, 8, numbers.ndim]) + b"".join(size.to_bytes(4, "big") for size in numbers.shape)
    return gzip.compress(header + numbers.astype(np.uint8).tobytes())


def test_grey_arrays_in_packed_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    contents = [idx(images), idx(np.array([7, 0, 9, 1])), idx(images[:2]), idx(np.array([2, 5]))]
    entry = CATALOGUE["mnist"]
    change(monkeypatch, "mnist", downloads=tuple(replace(one, checksum=None) for one in entry.downloads))
    names = [one.url.removeprefix("https://ossci-datasets.s3.amazonaws.com") for one in entry.downloads]
    with file_server.serving(dict(zip(names, contents, strict=True))) as served:
        fetch("mnist", mirror=served.url)
    dataset = load_dataset(NamedConfig(name="mnist", split="train"), (1, 28, 28), 10)
    np.testing.assert_array_equal(dataset.images[:, 0], images)
    assert dataset.labels.tolist() == [7, 0, 9, 1]
    assert len(load_dataset(NamedConfig(name="mnist"), (1, 28, 28), 10)) == 2


def matlab(**arrays: np.ndarray) -> bytes:
    """A ``.mat`` file."""
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, arrays)
    return buffer.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_svhn_s_matrices(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images lie in the last axis, and it calls the digit 0 ten."""
    from torchvision.datasets import SVHN

    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    turned = images.transpose(2, 3, 1, 0)
    files = {
        "train": matlab(X=turned, y=np.array([[10], [1], [9]], dtype=np.uint8)),
        "test": matlab(X=turned[..., :2], y=np.array([[2], [10]], dtype=np.uint8)),
    }
    entry = CATALOGUE["svhn"]
    sums = {split: md5(content) for split, content in files.items()}
    downloads = [replace(one, checksum=f"md5:{sums[split]}") for one, split in zip(entry.downloads, files, strict=True)]
    change(monkeypatch, "svhn", downloads=tuple(downloads))
    monkeypatch.setattr(SVHN, "split_list", {split: ["", f"{split}_32x32.mat", sums[split]] for split in files})
    with file_server.serving({f"/housenumbers/{split}_32x32.mat": content for split, content in files.items()}) as served:
        fetch("svhn", mirror=served.url)
    dataset = load_dataset(NamedConfig(name="svhn", split="train"), (3, 32, 32), 10)
    np.testing.assert_array_equal(dataset.images, images)
    assert dataset.labels.tolist() == [0, 1, 9]
    assert dataset.classes == tuple("0123456789")
    assert load_dataset(NamedConfig(name="svhn"), (3, 32, 32), 10).labels.tolist() == [2, 0]


def test_flowers_from_their_three_files(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and labels are counted from one."""
    from torchvision.datasets import Flowers102

    for i in range(1, 9):
        put(tmp_path / "packed" / "jpg" / f"image_{i:05d}.jpg", encoded(coloured(i), "JPEG"))
    splits = {"trnid": [6, 1], "valid": [2, 7], "tstid": [8, 3, 5, 4]}
    contents = {
        "102flowers.tgz": tarred(tmp_path / "packed"),
        "imagelabels.mat": matlab(labels=np.array([[102, 1, 3, 4, 5, 2, 9, 77]], dtype=np.uint8)),
        "setid.mat": matlab(**{name: np.array([numbers], dtype=np.uint16) for name, numbers in splits.items()}),
    }
    entry = CATALOGUE["flowers102"]
    change(
        monkeypatch,
        "flowers102",
        downloads=tuple(replace(one, checksum=f"md5:{md5(contents[one.url.rsplit('/', 1)[1]])}") for one in entry.downloads),
    )
    sums = {kind: (name, md5(contents[name])) for kind, (name, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", sums)
    with file_server.serving({f"/~vgg/data/flowers/102/{name}": content for name, content in contents.items()}) as served:
        done = fetch("flowers102", mirror=served.url)
    assert [(one.split, one.images) for one in done] == [("train", 2), ("val", 2), ("test", 4)]
    images, labels, classes = stored(root, "flowers102", "train")
    assert images == [encoded(coloured(6), "JPEG"), encoded(coloured(1), "JPEG")], "files are kept byte by byte"
    assert labels == [1, 101]
    assert (len(classes), classes[0], classes[-1]) == (102, "pink primrose", "blackberry lily")


def tiny_imagenet(folder: Path) -> None:
    put(folder / "wnids.txt", b"n02\nn01\n")
    put(folder / "words.txt", b"n01\tgoldfish\n")
    put(folder / "train" / "n01" / "images" / "n01_0.JPEG", encoded(coloured(0), "JPEG"))
    put(folder / "train" / "n02" / "images" / "n02_0.JPEG", encoded(coloured(1), "JPEG"))
    put(folder / "val" / "images" / "val_0.JPEG", encoded(coloured(2), "JPEG"))
    put(folder / "val" / "images" / "val_1.JPEG", encoded(coloured(3), "JPEG"))
    put(folder / "val" / "val_annotations.txt", b"val_1.JPEG\tn01\t0\t0\t1\t1\nval_0.JPEG\tn02\t0\t0\t1\t1\n")


def test_tiny_imagenet(root: Path, tmp_path: Path) -> None:
    tiny_imagenet(tmp_path / "tiny-imagenet-200")
    fetch("tiny_imagenet", local=tmp_path)
    assert stored(root, "tiny_imagenet", "train")[1:] == ([0, 1], ["n01", "n02"])
    assert stored(root, "tiny_imagenet", "test") == (
        [encoded(coloured(2), "JPEG"), encoded(coloured(3), "JPEG")],
        [1, 0],
        ["n01", "n02"],
    )


def test_eurosat_s_fixed_split(root: Path, tmp_path: Path) -> None:
    labels = np.repeat([0, 1], [203, 201])
    rows = {split: eurosat_rows(labels, split) for split in ("train", "test")}
    assert np.bincount(labels[rows["test"]]).tolist() == [200, 200]
    assert np.array_equal(np.sort(np.concatenate(list(rows.values()))), np.arange(404))
    assert rows["train"].tolist() == [47, 117, 172, 328], "the same on every machine, for ever"
    picture = encoded(coloured(0, 2), "JPEG")
    for name in ("AnnualCrop", "Forest"):
        for i in range(201):
            put(tmp_path / "copy" / "2750" / name / f"{name}_{i}.jpg", picture)
    assert [one.images for one in fetch("eurosat", local=tmp_path / "copy")] == [2, 400]
    assert stored(root, "eurosat", "train")[1:] == ([0, 1], ["AnnualCrop", "Forest"])


def test_camvid_s_masks(root: Path, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        put(tmp_path / "CamVid" / split / "a.png", encoded(coloured(0)))
        put(tmp_path / "CamVid" / f"{split}annot" / "a.png", encoded(coloured(1)[:, :, 0] % 12))
    fetch("camvid", local=tmp_path)
    table = pq.read_table(root / "camvid" / "val.parquet")
    assert table.column_names == ["image", "mask"]
    assert table["mask"].to_pylist() == [encoded(coloured(1)[:, :, 0] % 12)]
    assert table.schema.metadata[b"ignore_index"] == b"11"
    assert json.loads(table.schema.metadata[b"classes"])[11] == "void"
    put(tmp_path / "other" / "val" / "a.png", encoded(coloured(0)))
    (tmp_path / "other" / "valannot").mkdir()
    with pytest.raises(DataError, match=r"image a of .*val has no mask"):
        fetch("camvid", tmp_path / "out", tmp_path / "other")


def test_nyuv2_s_masks_of_13_classes_count_from_one(root: Path, tmp_path: Path) -> None:
    """0 is not labelled; what was fetched is read by the name alone."""
    mask = coloured(1)[:, :, 0] % 14
    for split in ("train", "test"):
        put(tmp_path / "image" / split / "a.png", encoded(coloured(0)))
        put(tmp_path / "seg13" / split / "a.png", encoded(mask))
    fetch("nyuv2", local=tmp_path)
    read = load_masked(NamedConfig(name="nyuv2", split="train"), (3, 8, 8), 13)
    np.testing.assert_array_equal(read.labels[0], mask.astype(int) - 1)
    assert (read.name, read.classes[0], read.classes[-1]) == ("nyuv2", "bed", "window")


def write_pets(folder: Path) -> None:
    for split, number in (("trainval", 0), ("test", 1)):
        put(folder / "images" / f"Abyssinian_{number}.jpg", encoded(coloured(number), "JPEG"))
        put(folder / "images" / f"great_pyrenees_{number}.jpg", encoded(coloured(number + 2), "JPEG"))
        lines = f"great_pyrenees_{number} 2 2 1\nAbyssinian_{number} 1 1 1\n"
        put(folder / "annotations" / f"{split}.txt", lines.encode())


def write_food(folder: Path) -> None:
    for split, number in (("train", 0), ("test", 1)):
        put(folder / "images" / "pizza" / f"{number}.jpg", encoded(coloured(number), "JPEG"))
        put(folder / "meta" / f"{split}.json", json.dumps({"pizza": [f"pizza/{number}"], "apple_pie": []}).encode())


def write_aircraft(folder: Path) -> None:
    put(folder / "data" / "variants.txt", b"707-320\nA300B4\n")
    for split, number in (("trainval", 0), ("test", 1)):
        put(folder / "data" / "images" / f"000{number}.jpg", encoded(coloured(number), "JPEG"))
        put(folder / "data" / "images" / f"100{number}.jpg", encoded(coloured(number + 2), "JPEG"))
        lines = f"000{number} A300B4\n100{number} 707-320\n"
        put(folder / "data" / f"images_variant_{split}.txt", lines.encode())


@pytest.mark.parametrize(
    ("name", "folder", "write", "expected"),
    [
        ("fgvc_aircraft", "fgvc-aircraft-2013b", write_aircraft, ([1, 3], [1, 0], ["707-320", "A300B4"])),
        ("oxford_pets", "oxford-iiit-pet", write_pets, ([3, 1], [1, 0], ["Abyssinian", "Great Pyrenees"])),
        ("food101", "food-101", write_food, ([1], [1], ["apple_pie", "pizza"])),
    ],
)
def test_files_in_torchvision_s_layout_are_kept_byte_by_byte(
    root: Path, tmp_path: Path, name: str, folder: str, write: Callable[[Path], None], expected: tuple[Any, ...]
) -> None:
    write(tmp_path / folder)
    fetch(name, local=tmp_path)
    images, labels, classes = stored(root, name, "test")
    assert (images, labels, classes) == ([encoded(coloured(i), "JPEG") for i in expected[0]], *expected[1:])
