"""Files behind links are found, once each and without circles; hidden ones are not data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydfkd.data.datasets import load_dataset
from raydfkd.data.file_tree import files_below
from raydfkd.data.kinds import open_rows
from raydfkd.data.kinds.image_folder import ImageFolderConfig
from raydfkd.data.kinds.parquet import parquet_files
from raydfkd.errors import DataError


def images(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 7, np.uint8)).save(path)
    return folder


def names(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in files_below(root, (".png",))]


def test_linked_folders_and_files_are_read_in_the_order_of_their_own_paths(tmp_path: Path) -> None:
    outside = images(tmp_path / "outside", "0/a.png", "0/deep/b.png", "c.png")
    root = images(tmp_path / "root", "z.png")
    (root / "m").symlink_to(outside / "0")
    (root / "c.png").symlink_to(outside / "c.png")
    assert names(root) == ["c.png", "m/a.png", "m/deep/b.png", "z.png"]
    (tmp_path / "link").symlink_to(root)
    assert names(tmp_path / "link") == names(root)


def test_each_file_is_there_once_under_its_own_path_and_circles_end(tmp_path: Path) -> None:
    root = images(tmp_path / "root", "real/a.png", "real/b.png")
    (root / "again").symlink_to(root / "real")
    (root / "real/up").symlink_to(root)
    (root / "first.png").symlink_to(root / "real/a.png")
    (root / "self").symlink_to(root / "self")
    outside = images(tmp_path / "outside", "c.png")
    (root / "one").symlink_to(outside)
    (root / "two").symlink_to(outside)
    (root / "three.png").symlink_to(outside / "c.png")
    assert names(root) == ["one/c.png", "real/a.png", "real/b.png"]


def test_a_link_gives_the_name_to_a_file_that_has_none(tmp_path: Path) -> None:
    """As caches and annexes keep contents under their hashes."""
    root = images(tmp_path / "root", "blobs/x.png")
    (root / "blobs/x.png").rename(root / "blobs/3f2a")
    (root / "photo.png").symlink_to(root / "blobs/3f2a")
    assert names(root) == ["photo.png"]


def test_a_link_to_nothing_is_named_by_who_reads_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = images(tmp_path / "root", "0/a.png", "1/a.png")
    (root / "0/gone.png").symlink_to(tmp_path / "nowhere.png")
    assert names(root) == ["0/a.png", "0/gone.png", "1/a.png"]
    assert len(load_dataset(ImageFolderConfig(path=str(root)), (1, 8, 8), 2)) == 2
    assert "0/gone.png" in caplog.text


def test_hidden_files_and_folders_are_not_data(tmp_path: Path) -> None:
    root = images(tmp_path / ".cache" / "root", "0/a.png", "1/b.png", "0/.ipynb_checkpoints/a-checkpoint.png", ".trash/c.png",
                  "__MACOSX/0/a.png", "@eaDir/b.png")  # fmt: skip
    (root / "0/._a.png").write_bytes(b"\0\5\x16\7")
    assert names(root) == ["0/a.png", "1/b.png"]
    loaded = load_dataset(ImageFolderConfig(path=str(root)), (1, 8, 8), 2)
    assert (loaded.classes, list(loaded.labels)) == (("0", "1"), [0, 1])
    assert open_rows(ImageFolderConfig(path=str(root))).total == 2


def test_linked_class_folders_are_classes(tmp_path: Path) -> None:
    real = images(tmp_path / "real", "0/a.png", "1/b.png")
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in "01":
        (linked / name).symlink_to(real / name)
    loaded = load_dataset(ImageFolderConfig(path=str(linked)), (1, 8, 8), 2)
    assert (loaded.classes, list(loaded.labels)) == (("0", "1"), [0, 1])
    assert open_rows(ImageFolderConfig(path=str(linked))).total == 2, "without labels, as collected images are read"


def test_a_class_folder_that_is_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    """Left out, it would shift the classes behind it."""
    root = images(tmp_path / "root", "0/a.png", "2/b.png")
    (root / "1").symlink_to(tmp_path / "unmounted" / "1")
    with pytest.raises(DataError, match=r"1 is a link to .*unmounted/1, which is not there: correct it"):
        load_dataset(ImageFolderConfig(path=str(root)), (1, 8, 8), 2)


def test_hidden_parquet_files_are_not_data(tmp_path: Path) -> None:
    (tmp_path / "images-0.parquet").write_bytes(b"PAR1")
    (tmp_path / "._images-0.parquet").write_bytes(b"\0\5\x16\7")
    assert parquet_files(str(tmp_path)) == [tmp_path / "images-0.parquet"]


def test_a_link_in_a_class_to_the_folder_of_all_classes_adds_none_of_theirs(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").touch()
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    assert [path.name for path in files_below(tmp_path / "cat")] == ["cat.png"]
    assert [path.name for path in files_below(tmp_path)] == ["cat.png", "dog.png"]
