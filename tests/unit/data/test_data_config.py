from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from raydfkd.data.kinds import AnyDataset
from raydfkd.data.kinds.digits import DigitsConfig
from raydfkd.data.kinds.image_folder import ImageFolderConfig
from raydfkd.data.kinds.parquet import ParquetConfig
from raydfkd.data.kinds.torchvision_sets import TorchvisionConfig

ADAPTER = TypeAdapter(AnyDataset)


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


def test_the_settings_of_data_sets_import_nothing_that_reads_them() -> None:
    code = (
        "import sys, raydfkd.data.config, raydfkd.pipeline.teacher.config\n"
        "sys.exit(','.join({'torch', 'torchvision', 'sklearn', 'PIL', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
