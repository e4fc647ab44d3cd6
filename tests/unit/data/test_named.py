"""Named data sets and teachers: where they are looked for, what is said when they are not there, and the short form."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cifar10_files import write_cifar10
from image_samples import coloured, encoded
from pydantic import TypeAdapter, ValidationError

from raydfkd.data import data_root as places
from raydfkd.data.catalogue import CATALOGUE, named_dataset, split_short_form
from raydfkd.data.checksums import FILE_NAME, checksum_of, record_checksum
from raydfkd.data.data_root import data_root, named_teacher
from raydfkd.data.datasets import load_dataset, load_unlabelled
from raydfkd.data.fetching.layouts import LAYOUTS
from raydfkd.data.kinds import AnyDataset, open_rows, open_source
from raydfkd.data.kinds.digits import DigitsConfig
from raydfkd.data.kinds.image_folder import ImageFolderConfig
from raydfkd.data.kinds.named import NamedConfig
from raydfkd.data.kinds.parquet import ParquetConfig
from raydfkd.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from raydfkd.pipeline.dataset.inspection import dataset_of
from raydfkd.pipeline.experiment.config import EvaluationConfig
from raydfkd.pipeline.experiment.yaml_files import validate

SHAPE = (3, 8, 8)
TEST = NamedConfig(name="cifar10")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "root"
    monkeypatch.setenv("RAYDFKD_DATA", str(root))
    return root


@pytest.fixture
def written(root: Path, write_parquet: Callable[..., Path]) -> Path:
    """``cifar10/test.parquet`` below the data root, with five images."""
    path = root / "cifar10" / "test.parquet"
    path.parent.mkdir(parents=True)
    images = [encoded(coloured(i)) for i in range(5)]
    write_parquet(images, [0, 1, 2, 3, 4], [f"class {k}" for k in range(10)]).rename(path)
    return path


def test_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYDFKD_DATA", raising=False)
    assert data_root() == tmp_path / "data"
    monkeypatch.setenv("RAYDFKD_DATA", "")
    assert data_root() == tmp_path / "data"
    monkeypatch.setenv("RAYDFKD_DATA", "below")
    assert data_root() == tmp_path / "below"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAYDFKD_DATA", "~/mine")
    assert data_root() == tmp_path / "mine"


def test_a_named_data_set_in_parquet(written: Path) -> None:
    dataset = load_dataset(TEST, SHAPE, 10)
    assert np.array_equal(dataset.images, np.stack([coloured(i).transpose(2, 0, 1) for i in range(5)]))
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4]
    assert (dataset.name, dataset.split, dataset.source) == ("cifar10", "test", str(written))
    assert TEST.location == "cifar10/test", "what the manifest says"
    assert len(load_unlabelled(TEST.model_copy(update={"max_images": 2}), SHAPE)) == 2


def test_rows_at_random_are_read_in_another_process_and_folder(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = pickle.loads(pickle.dumps(open_rows(TEST)))
    monkeypatch.delenv("RAYDFKD_DATA")
    assert reader.total == 5
    rows = reader.read(np.array([1, 4]))
    assert [bytes(item) for item in rows.items] == [encoded(coloured(i)) for i in (1, 4)]


def test_parts_of_parquet_and_folders_of_images(written: Path) -> None:
    part = written.parent / "train" / "0.parquet"
    part.parent.mkdir()
    written.rename(part)
    assert len(load_dataset(NamedConfig(name="cifar10", split="train"), SHAPE, 10)) == 5
    for place, number in (("ham10000/test/mel/a", 0), ("ham10000/test/nv/b", 1)):
        image = written.parents[1] / f"{place}.png"
        image.parent.mkdir(parents=True)
        image.write_bytes(encoded(coloured(number)))
    dataset = load_dataset(NamedConfig(name="ham10000"), SHAPE, 2)
    assert (dataset.classes, dataset.labels.tolist()) == (("mel", "nv"), [0, 1])
    assert open_rows(NamedConfig(name="ham10000")).total == 2


@pytest.mark.parametrize("below", ["", "cifar10"])
def test_torchvision_s_layout(root: Path, below: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_cifar10(root / below, monkeypatch)
    dataset = load_dataset(TEST, (3, 32, 32), 10)
    np.testing.assert_array_equal(dataset.images, images)
    assert dataset.name == "cifar10"
    assert open_rows(NamedConfig(name="cifar10", split="train")).total == 10
    assert checksum_of(TEST) is None


def test_what_is_missing_is_named_with_the_command_that_gets_it(root: Path) -> None:
    for read in (lambda: open_source(TEST), lambda: open_rows(TEST), lambda: checksum_of(TEST)):
        with pytest.raises(DataError) as missing:
            read()
        assert str(missing.value) == (
            f"data set cifar10/test is not below the data root, none of {root}/cifar10/test.parquet, {root}/cifar10/test, "
            f"{root}/cifar-10-batches-py, {root}/cifar10/cifar-10-batches-py exists: run raydfkd dataset fetch cifar10, or set "
            "RAYDFKD_DATA to the folder that holds it"
        )
    with pytest.raises(
        DataError, match=r"exists: register at image-net.org, .* then run raydfkd dataset fetch imagenet --from"
    ):
        open_source(NamedConfig(name="imagenet"))


def test_the_short_form_wherever_a_data_set_is_accepted(written: Path) -> None:
    assert TypeAdapter(AnyDataset).validate_python("cifar10/test") == TEST
    config = EvaluationConfig.model_validate({"dataset": "eurosat/train"})
    assert config.dataset == NamedConfig(name="eurosat", split="train")
    assert EvaluationConfig.model_validate(config.model_dump(mode="json")) == config
    assert dataset_of(Path("cifar10/test")) == TEST, "raydfkd dataset inspect cifar10/test"
    own = written.parent / "own.yaml"
    own.write_text("{collected: {dataset: cifar10/test}}")
    assert dataset_of(own) == TEST


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cifar11/test", "unknown data set 'cifar11': did you mean 'cifar10' or 'cifar100'?"),
        ("cifar10/tets", "data set cifar10 has no split 'tets': did you mean 'test'?"),
        ("cifar10", "data set 'cifar10' is not NAME/SPLIT: write it so, as in cifar10/test, or give settings with a kind"),
        ("a/b/c", "data set 'a/b/c' is not NAME/SPLIT"),
    ],
)
def test_a_wrong_short_form(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate(EvaluationConfig, {"dataset": text}, "x.yaml")
    assert str(refused.value).startswith(f"x.yaml: dataset: {said}")
    with pytest.raises(ValidationError):
        TypeAdapter(AnyDataset).validate_python(text)


def test_what_inspect_takes_for_the_short_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="data set cifar10 has no split 'nothing'"):
        dataset_of(Path("cifar10/nothing"))
    with pytest.raises(DataError, match="data set cifar11/test does not exist"):
        dataset_of(Path("cifar11/test"))
    Path("cifar10/test").mkdir(parents=True)
    assert dataset_of(Path("cifar10/test")) == ImageFolderConfig(path="cifar10/test"), "a folder that is there comes first"


def test_checksums_are_computed_once_and_read_where_they_are_recorded(written: Path) -> None:
    expected = hashlib.sha256(written.read_bytes()).hexdigest()
    assert checksum_of(TEST) == checksum_of(ParquetConfig(path=str(written))) == expected
    assert record_checksum(written, 5) == expected
    records = json.loads((written.parent / FILE_NAME).read_text())
    assert (records["test.parquet"]["images"], records["test.parquet"]["bytes"]) == (5, written.stat().st_size)
    records["test.parquet"]["sha256"] = "recorded"
    (written.parent / FILE_NAME).write_text(json.dumps(records))
    assert checksum_of(TEST) == "recorded"
    os.utime(written, ns=(0, 0))
    assert checksum_of(TEST) == expected, "the record is of an older file"
    (written.parent / FILE_NAME).write_text("[]")
    assert checksum_of(TEST) == expected
    two = ParquetConfig(path=[str(written), str(written)])
    assert checksum_of(two) == hashlib.sha256(f"{expected}\n{expected}\n".encode()).hexdigest()
    assert checksum_of(DigitsConfig()) is checksum_of(ImageFolderConfig(path=str(written.parent))) is None


def test_named_teachers(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped" / "teachers"
    shipped.mkdir(parents=True)
    monkeypatch.setattr(places, "shipped_folder", lambda: shipped.parent)
    with pytest.raises(CheckpointError) as missing:
        named_teacher("cifar10_wrn_16_2")
    assert str(missing.value) == (
        f"there is no teacher named 'cifar10_wrn_16_2', neither {root}/teachers/cifar10_wrn_16_2.safetensors nor "
        f"{shipped}/cifar10_wrn_16_2.safetensors exists: put its weights into one of these places, or set RAYDFKD_DATA to the "
        "folder that holds teachers/; a file without a suffix is given as ./NAME"
    )
    (shipped / "cifar10_wrn_16_2.safetensors").touch()
    assert named_teacher("cifar10_wrn_16_2") == shipped / "cifar10_wrn_16_2.safetensors"
    (root / "teachers").mkdir(parents=True)
    (root / "teachers" / "cifar10_wrn_16_2.safetensors").touch()
    assert named_teacher("cifar10_wrn_16_2") == root / "teachers" / "cifar10_wrn_16_2.safetensors"
    with pytest.raises(CheckpointError, match="did you mean 'cifar10_wrn_16_2'"):
        named_teacher("cifar10_wrn_16_1")
    (root / "outside.safetensors").touch()
    for name in ("../outside", str(root / "outside"), ""):
        with pytest.raises(CheckpointError, match="there is no teacher named"):
            named_teacher(name)


def test_where_the_repository_s_own_teachers_are() -> None:
    assert (places.shipped_folder() / "teachers.yaml").is_file(), "beside their recipes"


def test_every_entry_of_the_catalogue_is_consistent() -> None:
    from torchvision import datasets

    for name, entry in CATALOGUE.items():
        assert split_short_form(f"{name}/test")["name"] == name
        assert entry.channels == len(entry.mean) == len(entry.std), name
        assert all(0 < value < 1 for value in (*entry.mean, *entry.std)), name
        assert entry.splits, name
        assert min(entry.splits.values()) > 0, name
        assert set(entry.folders) <= set(entry.splits), name
        assert bool(entry.downloads) is (entry.instruction is None), f"{name}: either is given"
        assert entry.layout in LAYOUTS, name
        assert (entry.torchvision is None) is (entry.marker is None), name
        assert (entry.layout == "torchvision") is (entry.torchvision is not None), name
        assert entry.torchvision is None or entry.torchvision in datasets.__all__, name
        assert len(entry.classes) in (0, entry.num_classes + (entry.ignore_index is not None)), name
        assert entry.ignore_index in (None, *range(len(entry.classes))), name
        for address in (entry.page, *(one.url for one in entry.downloads)):
            assert address.startswith(("http://", "https://")), name
        for one in entry.downloads:
            assert one.checksum is None or len(one.checksum) == {"md5": 36, "sha256": 71}[one.checksum.split(":")[0]], name
    with pytest.raises(UnknownNameError, match="did you mean 'fashion_mnist'"):
        named_dataset("fashionmnist")


def test_addresses_and_checksums_are_those_that_torchvision_declares() -> None:
    from torchvision import datasets as tv

    declared = {
        "cifar10": [(tv.CIFAR10.url, tv.CIFAR10.tgz_md5)],
        "cifar100": [(tv.CIFAR100.url, tv.CIFAR100.tgz_md5)],
        "svhn": [(url, md5) for url, _, md5 in (tv.SVHN.split_list["train"], tv.SVHN.split_list["test"])],
        "food101": [(tv.Food101._URL, tv.Food101._MD5)],
        "fgvc_aircraft": [(tv.FGVCAircraft._URL, None)],
        "oxford_pets": list(tv.OxfordIIITPet._RESOURCES),
        "flowers102": [(tv.Flowers102._download_url_prefix + name, md5) for name, md5 in tv.Flowers102._file_dict.values()],
    }
    for name, files in declared.items():
        ours = [(one.url, one.checksum and one.checksum.removeprefix("md5:")) for one in CATALOGUE[name].downloads]
        assert ours == files, name
    for name, kind in (("mnist", tv.MNIST), ("fashion_mnist", tv.FashionMNIST)):
        ours = [(Path(one.url).name, one.checksum and one.checksum[4:]) for one in CATALOGUE[name].downloads]
        assert ours == list(kind.resources), name
        assert all(any(one.url.startswith(m) for m in kind.mirrors) for one in CATALOGUE[name].downloads), name
