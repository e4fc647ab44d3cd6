"""A named data set from its published files to Parquet: every layout, what is kept, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import file_server
import numpy as np
import pyarrow.parquet as pq
import pytest
from cifar10_files import write_cifar10
from image_samples import coloured, encoded

from raydfkd.data import catalogue
from raydfkd.data.catalogue import CATALOGUE, Download
from raydfkd.data.checksums import checksum_of, digest
from raydfkd.data.datasets import load_dataset
from raydfkd.data.fetching import archives
from raydfkd.data.fetching import fetch as fetching
from raydfkd.data.fetching.archives import unpack
from raydfkd.data.fetching.fetch import fetch
from raydfkd.data.fetching.layouts import eurosat_rows
from raydfkd.data.kinds.named import NamedConfig
from raydfkd.errors import DataError, DownloadError, UnknownNameError
from raydfkd.testing.command import invoke

raydfkd = partial(invoke, "dataset", "fetch")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "root"
    monkeypatch.setenv("RAYDFKD_DATA", str(root))
    return root


def tarred(folder: Path) -> bytes:
    """A ``.tar.gz`` of what is in the folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return buffer.getvalue()


def change(monkeypatch: pytest.MonkeyPatch, name: str, **values: Any) -> None:
    """Changes an entry of the catalogue for this test."""
    monkeypatch.setitem(catalogue.CATALOGUE, name, replace(CATALOGUE[name], **values))


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, np.ndarray]:
    """A small CIFAR-10's archive, whose checksum the catalogue has, and its test images."""
    images = write_cifar10(tmp_path / "published", monkeypatch)
    archive = tarred(tmp_path / "published")
    (tmp_path / "archive").write_bytes(archive)
    download = replace(CATALOGUE["cifar10"].downloads[0], checksum=f"md5:{digest(tmp_path / 'archive', 'md5')}")
    change(monkeypatch, "cifar10", downloads=(download,))
    return archive, images


def test_from_an_archive_on_a_server_to_cifar10_test(root: Path, cifar10: tuple[bytes, np.ndarray]) -> None:
    archive, images = cifar10
    with file_server.serving({"/~kriz/cifar-10-python.tar.gz": archive}) as served:
        served.cut_after = [1000]
        told = raydfkd("cifar10", "--mirror", served.url)
        assert len(served.asked) == 2
        dataset = load_dataset(NamedConfig(name="cifar10"), (3, 32, 32), 10)
        np.testing.assert_array_equal(dataset.images, images)
        assert dataset.labels.tolist() == [3, 1, 4, 1, 5, 9]
        assert dataset.classes == tuple(f"class {k}" for k in range(10))
        assert len(load_dataset(NamedConfig(name="cifar10", split="train"), (3, 32, 32), 10)) == 10
        assert sorted(path.name for path in (root / "cifar10").iterdir()) == ["checksums.json", "test.parquet", "train.parquet"]
        sha256 = digest(root / "cifar10" / "test.parquet", "sha256")
        assert checksum_of(NamedConfig(name="cifar10")) == sha256
        row = next(line.split() for line in told.splitlines() if line.startswith("cifar10/test"))
        assert row == ["cifar10/test", "6", "10,000", str(root / "cifar10" / "test.parquet"), sha256]
        assert "cifar-10-python.tar.gz 1,000/" in told
        assert "writing test.parquet 6/6" in told
        assert "about cifar10 and its terms of use" in told
        assert "(was there)" in raydfkd("cifar10", "--mirror", served.url)
        assert len(served.asked) == 2, "all splits are there: nothing is downloaded"


def test_what_was_stopped_goes_on_and_finished_splits_are_kept(
    root: Path, cifar10: tuple[bytes, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with file_server.serving({"/~kriz/cifar-10-python.tar.gz": cifar10[0]}) as served:
        monkeypatch.setenv("RAYDFKD_DATA_MIRROR", served.url)
        real, calls = fetching.write_split, list[str]()

        def stopped_at_the_second(images: Any, channels: int, ignored: Any, path: Path, tell: Any) -> Any:
            calls.append(path.name)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(images, channels, ignored, path, tell)

        monkeypatch.setattr(fetching, "write_split", stopped_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            fetch("cifar10")
        before = (root / "cifar10" / "train.parquet").stat().st_mtime_ns
        monkeypatch.setattr(archives.tarfile, "open", lambda *_: pytest.fail("it was unpacked before"))
        done = fetch("cifar10")
        assert [(one.split, one.images, one.kept) for one in done] == [("train", 10, True), ("test", 6, False)]
        assert calls == ["train.parquet", "test.parquet", "test.parquet"]
        assert (root / "cifar10" / "train.parquet").stat().st_mtime_ns == before
        assert len(served.asked) == 1
        assert not (root / "cifar10" / ".fetching").exists()


def test_a_wrong_archive_leaves_nothing(root: Path, cifar10: tuple[bytes, np.ndarray]) -> None:
    with file_server.serving({"/~kriz/cifar-10-python.tar.gz": cifar10[0][:-1] + b"?"}) as served:
        told = raydfkd("cifar10", "--mirror", served.url, rc=1)
    assert "not the published" in told
    assert len(told.strip().splitlines()) == 1
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_damaged_archive_without_a_checksum(root: Path) -> None:
    address = "/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz"
    with (
        file_server.serving({address: b"no archive"}) as served,
        pytest.raises(DataError, match=r"2013b.tar.gz could not be unpacked \(not a gzip file\) and is removed: run the same"),
    ):
        fetch("fgvc_aircraft", mirror=served.url)
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_an_archive_of_another_layout(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    change(monkeypatch, "cinic10", downloads=(Download("http://x.example.org/CINIC-10.tar.gz", None),))
    with (
        file_server.serving({"/CINIC-10.tar.gz": tarred(tmp_path / "empty")}) as served,
        pytest.raises(DataError, match="the files of cinic10 do not hold train, valid, test as they did when"),
    ):
        fetch("cinic10", mirror=served.url)


def test_an_archive_cannot_write_elsewhere(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("../outside")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="could not be unpacked"):
        unpack(tmp_path / "evil.tar.gz", tmp_path / "below" / "folder")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as packed:
        packed.writestr("../outside", "x")
    unpack(tmp_path / "evil.zip", tmp_path / "below" / "folder")
    assert list(tmp_path.rglob("outside")) == [tmp_path / "below" / "folder" / "outside"]


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


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def stored(root: Path, name: str, split: str) -> tuple[list[bytes], list[int], dict[str, Any]]:
    table = pq.read_table(root / name / f"{split}.parquet")
    return table["image"].to_pylist(), table["label"].to_pylist(), json.loads(table.schema.metadata[b"classes"])


def test_a_local_copy_in_folders_by_split_keeps_the_files_bytes(root: Path, tmp_path: Path) -> None:
    """JPEG and PNG of the right channels as they are; others as PNG of three; what is damaged is left out and named."""
    from PIL import Image

    jpeg, png = encoded(coloured(0, 16), "JPEG"), encoded(coloured(1))
    bitmap, grey = encoded(coloured(2), "BMP"), encoded(coloured(3)[:, :, 0], "JPEG")
    for place, content in (("a/0.jpg", jpeg), ("a/1.png", png), ("b/2.bmp", bitmap), ("b/3.jpg", grey), ("b/4.png", b"cut")):
        put(tmp_path / "copy" / "val" / place, content)
    told = raydfkd("imagenet", "--from", tmp_path / "copy")
    images, labels, classes = stored(root, "imagenet", "test")
    assert images[:2] == [jpeg, png]
    assert (labels, classes) == ([0, 0, 1, 1], ["a", "b"])
    for content, original in zip(images[2:], (bitmap, grey), strict=True):
        with Image.open(io.BytesIO(content)) as image, Image.open(io.BytesIO(original)) as before:
            assert (image.format, image.mode) == ("PNG", "RGB")
            assert np.array_equal(np.asarray(image), np.asarray(before.convert("RGB")))
    assert "left out, not readable" in told
    assert "not in the copy, and therefore not written: train" in told
    put(tmp_path / "copy" / "train" / "a" / "0.jpg", jpeg)
    assert [(one.split, one.kept) for one in fetch("imagenet", local=tmp_path / "copy")] == [("train", False), ("test", True)]


def test_small_row_groups(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raydfkd.data.fetching import conversion

    for i in range(5):
        put(tmp_path / "copy" / "test" / "a" / f"{i}.png", encoded(coloured(i)))
    monkeypatch.setattr(conversion, "ROWS", 2)
    fetch("isic", local=tmp_path / "copy")
    with pq.ParquetFile(root / "isic" / "test.parquet") as file:
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 2, 1]


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


def test_what_cannot_be_got_says_how(root: Path, tmp_path: Path) -> None:
    told = raydfkd("imagenet", rc=2)
    assert "cannot be downloaded: register at image-net.org" in told
    assert "then run raydfkd dataset fetch imagenet --from PATH" in told
    assert "unknown data set 'cifar1': did you mean" in raydfkd("cifar1", rc=2)
    assert "is not a folder: name the folder" in raydfkd("cifar10", "--from", tmp_path / "gone", rc=2)
    assert "does not hold cifar10 as raydfkd knows it: it needs folders train and test" in raydfkd(
        "cifar10", "--from", tmp_path, rc=2
    )
    for i in range(2):
        put(tmp_path / "broken" / "test" / "a" / f"{i}.png", b"")
    assert "none of the 2 images for" in raydfkd("isic", "--from", tmp_path / "broken", rc=2)
    (tmp_path / "file").touch()
    put(tmp_path / "good" / "test" / "a" / "0.png", encoded(coloured(0)))
    assert "cannot be written" in raydfkd("isic", "--from", tmp_path / "good", "--out", tmp_path / "file", rc=2)
    assert list(root.rglob("*.parquet")) == []


def test_ctrl_c_says_how_to_go_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "fetch", interrupted)
    assert raydfkd("cifar10", rc=130).strip() == "raydfkd: stopped by Ctrl-C; the same command goes on from there"


def test_no_network_is_one_sentence_and_exit_code_1(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raydfkd.data.fetching import downloader

    def nothing(*_: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(downloader, "_continue", nothing)
    monkeypatch.setattr(downloader.time, "sleep", lambda seconds: None)
    told = raydfkd("cifar10", rc=1)
    assert "5 attempts in a row brought nothing (no route to host): check the network, then run the same command" in told
    with pytest.raises(UnknownNameError):
        fetch("nothing")
    with pytest.raises(DownloadError):
        fetch("cifar10")


def test_without_a_name_all_are_listed() -> None:
    told = raydfkd()
    assert all(name in told for name in CATALOGUE)
    assert "by hand, then --from PATH" in told
