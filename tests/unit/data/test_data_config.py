from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from raydfkd.data import DatasetConfig, DigitsConfig, ImageFolderConfig, ParquetConfig, TorchvisionConfig

ADAPTER = TypeAdapter(DatasetConfig)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"kind": "digits", "split": "train"}, DigitsConfig(split="train")),
        ({"kind": "parquet", "path": "a.parquet"}, ParquetConfig(path="a.parquet")),
        ({"kind": "parquet", "path": ["a", "b"], "max_images": 3}, ParquetConfig(path=["a", "b"], max_images=3)),
        ({"kind": "image_folder", "path": "x", "split": "val"}, ImageFolderConfig(path="x", split="val")),
        ({"kind": "torchvision", "name": "CIFAR10", "root": "x"}, TorchvisionConfig(name="CIFAR10", root="x")),
    ],
)
def test_kind_tells_data_sets_apart(tree: dict, expected: object) -> None:
    assert ADAPTER.validate_python(tree) == expected


@pytest.mark.parametrize(
    "tree",
    [
        {"kind": "digits", "split": "val"},
        {"kind": "digits", "path": "x"},
        {"kind": "parquet"},
        {"kind": "nonsense"},
        {"kind": "digits", "max_images": 0},
    ],
)
def test_wrong_settings_are_refused(tree: dict) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(tree)


def test_resolve_prefers_the_experiments_folder_then_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "experiments", tmp_path / "project"
    beside.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    for folder in (beside, here):
        (folder / "both.parquet").touch()
    (here / "only_here.parquet").touch()
    config = ParquetConfig(path=["both.parquet", "only_here.parquet", "nowhere.parquet", "/absolute.parquet"])
    assert config.resolve(beside).path == [
        str(beside / "both.parquet"),
        str(here / "only_here.parquet"),
        str(beside / "nowhere.parquet"),
        "/absolute.parquet",
    ]
    assert ImageFolderConfig(path="both.parquet").resolve(beside).path == str(beside / "both.parquet")
    assert TorchvisionConfig(name="MNIST", root="../project").resolve(beside).root == str(here)
    assert DigitsConfig().resolve(beside) == DigitsConfig()


def test_the_room_imports_no_torch() -> None:
    code = "import sys, raydfkd.data, raydfkd.pipeline.teacher.config; sys.exit(bool({'torch', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
