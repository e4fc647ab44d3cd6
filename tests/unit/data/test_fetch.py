"""A named data set from its published files to Parquet: what is kept, and what is refused."""

from __future__ import annotations

import io
import tarfile
import zipfile
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
from published_files import change, put, stored, tarred

from raydfkd.data.catalogue import CATALOGUE, Download
from raydfkd.data.checksums import checksum_of, digest
from raydfkd.data.datasets import load_dataset
from raydfkd.data.fetching import archives
from raydfkd.data.fetching import fetch as fetching
from raydfkd.data.fetching.archives import unpack
from raydfkd.data.fetching.fetch import fetch
from raydfkd.data.kinds.named import NamedConfig
from raydfkd.errors import DataError, DownloadError, UnknownNameError
from raydfkd.testing.command import invoke

raydfkd = partial(invoke, "dataset", "fetch")


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
