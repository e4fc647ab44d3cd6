"""What a kind of data set is to the rest of the program: one entry, by which it is opened, read at random and recognised."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from image_samples import coloured
from pydantic import Field

from raydfkd.data import kinds
from raydfkd.data.dataset_kind import Chunk, DatasetConfig, DatasetKind, RowReader, Source, evenly_spaced, read_whole
from raydfkd.data.datasets import load_dataset
from raydfkd.data.decoding import Decoder
from raydfkd.data.kinds import open_rows, open_source
from raydfkd.data.kinds.digits import DigitsConfig
from raydfkd.data.kinds.image_folder import ImageFolderConfig
from raydfkd.data.kinds.parquet import ParquetConfig
from raydfkd.data.kinds.torchvision_sets import TorchvisionConfig
from raydfkd.errors import DataError, UnknownNameError
from raydfkd.registry import Registry

SHAPE = (3, 8, 8)


class NumbersConfig(DatasetConfig):
    kind: Literal["toy_numbers"] = "toy_numbers"
    numbers: list[int] = Field(default=[4, 2, 7, 1, 9])


def open_numbers(config: NumbersConfig, labelled: bool) -> Source:
    from PIL import Image

    chosen = [config.numbers[i] for i in evenly_spaced(len(config.numbers), config.max_images)]
    labels = np.array(chosen if labelled else [-1] * len(chosen), np.int64)
    chunk = Chunk(chosen, labels, lambda i: f"number {chosen[i]}")
    return Source("numbers", "numbers", len(chosen), None, lambda number: Image.fromarray(coloured(number)), iter([chunk]))


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], RowReader] | None], None]:
    """Registers the toy kind, in a registry of this test alone, with that reader of rows."""

    def add(rows: Callable[[Any], RowReader] | None) -> None:
        registry: Registry[DatasetKind] = Registry("data set kind", DatasetKind)
        registry.add("toy_numbers", DatasetKind(config=NumbersConfig, title="numbers", open=open_numbers, rows=rows))
        monkeypatch.setattr(kinds, "DATASETS", registry)

    return add


def pixels_of(reader: RowReader, rows: list[int]) -> np.ndarray:
    found = reader.read(np.array(rows))
    with Decoder(SHAPE, False) as decoder:
        images, failed = decoder.decode_all(found.items, found.opener, found.name)
    assert failed == []
    return images


@pytest.mark.parametrize("max_images", [None, 3])
def test_a_kind_is_its_entry(added: Callable[..., None], max_images: int | None) -> None:
    added(read_whole(open_numbers))
    config = NumbersConfig(max_images=max_images)
    numbers = [4, 2, 7, 1, 9] if max_images is None else [4, 2, 1]
    expected = np.stack([coloured(number).transpose(2, 0, 1) for number in numbers])
    found = load_dataset(config, SHAPE, 10)
    assert found.labels.tolist() == numbers
    np.testing.assert_array_equal(found.images, expected)
    assert open_rows(config).total == len(numbers)
    sent = pickle.loads(pickle.dumps(open_rows(config)))
    np.testing.assert_array_equal(pixels_of(sent, [0, 2]), expected[[0, 2]])


def test_a_data_set_that_is_held_whole_is_read_once_and_another_one_anew() -> None:
    opened = []

    def noted(config: NumbersConfig, labelled: bool) -> Source:
        opened.append((config.numbers, labelled))
        return open_numbers(config, labelled)

    for _ in range(2):
        assert read_whole(noted)(NumbersConfig(numbers=[3, 5])).read(np.array([1])).items == [5]
    assert opened == [([3, 5], False)]
    assert read_whole(noted)(NumbersConfig(numbers=[3, 6])).read(np.array([1])).items == [6]


def test_a_kind_whose_rows_cannot_be_read_at_random_is_refused_where_they_are_needed(added: Callable[..., None]) -> None:
    added(None)
    assert open_source(NumbersConfig()).total == 5
    with pytest.raises(DataError, match="'toy_numbers' cannot be read in parts: convert it to Parquet files"):
        open_rows(NumbersConfig())


def test_how_rows_are_read_is_said_by_every_kind() -> None:
    with pytest.raises(TypeError, match="rows"):
        DatasetKind(config=NumbersConfig, title="numbers", open=open_numbers)  # type: ignore[call-arg]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown data set kind 'toy_numbers'"):
        open_rows(NumbersConfig())
    with pytest.raises(UnknownNameError, match="unknown data set kind 'toy_numbers'"):
        open_source(NumbersConfig())


def test_the_manifest_s_name_of_where_it_lies() -> None:
    assert DigitsConfig().location == "digits"
    assert NumbersConfig().location == "toy_numbers"
    assert ParquetConfig(path="a.parquet").location == "a.parquet"
    assert ParquetConfig(path=["a.parquet", "b.parquet"]).location == "a.parquet, b.parquet"
    assert ImageFolderConfig(path="photos").location == "photos"
    assert TorchvisionConfig(name="CIFAR10", root="x").location == "CIFAR10"


TOY = """\
from typing import Literal
from raydfkd.data.dataset_kind import DatasetConfig, DatasetKind

class ToyConfig(DatasetConfig):
    kind: Literal["toy"] = "toy"

DATASET = DatasetKind(config=ToyConfig, title="toy", open=lambda config, labelled: None, rows=None)
"""


@pytest.mark.parametrize("first", ["toy_kind", "raydfkd.data.kinds"])
def test_another_package_s_kind_is_known_whichever_is_imported_first(tmp_path: Path, first: str) -> None:
    """A process that unpickles a reader of rows imports the kind's module before any of ours."""
    (tmp_path / "toy_kind.py").write_text(TOY)
    metadata = tmp_path / "toy_kind-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-kind\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[raydfkd.datasets]\ntoy = toy_kind:DATASET\n")
    code = (
        f"import {first}, toy_kind; from pydantic import TypeAdapter; from raydfkd.data.kinds import AnyDataset;"
        "assert isinstance(TypeAdapter(AnyDataset).validate_python({'kind': 'toy'}), toy_kind.ToyConfig)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
