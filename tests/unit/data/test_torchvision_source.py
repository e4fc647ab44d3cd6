from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cifar10_files import write_cifar10
from image_samples import coloured, encoded

from raydfkd.data.datasets import load_dataset, load_unlabelled
from raydfkd.data.kinds.torchvision_sets import TorchvisionConfig
from raydfkd.errors import DataError, UnknownNameError


def test_files_in_torchvisions_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_cifar10(tmp_path, monkeypatch)
    config = TorchvisionConfig(name="CIFAR10", root=str(tmp_path))
    dataset = load_dataset(config, (3, 32, 32), 10)
    np.testing.assert_array_equal(dataset.images, images)
    assert dataset.labels.tolist() == [3, 1, 4, 1, 5, 9]
    assert dataset.classes[3] == "class 3"
    assert (dataset.name, dataset.split) == ("CIFAR10", "test")
    assert len(load_dataset(config.model_copy(update={"split": "train"}), (3, 32, 32), 10)) == 10
    assert load_dataset(config.model_copy(update={"max_images": 2}), (3, 32, 32), 10).labels.tolist() == [3, 1]


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a connection was tried"))
    for name in ("CIFAR10", "MNIST", "SVHN", "Flowers102"):
        with pytest.raises(DataError, match=f"torchvision {name} .test. cannot be read in .*nothing is downloaded"):
            load_dataset(TorchvisionConfig(name=name, root=str(tmp_path)), (3, 32, 32), 10)


def test_unknown_names_and_splits(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'CIFAR100'"):
        load_dataset(TorchvisionConfig(name="CIFAR1000", root=str(tmp_path)), (3, 32, 32), 10)
    with pytest.raises(DataError, match="splits train and test, not 'val'"):
        load_dataset(TorchvisionConfig(name="CIFAR10", root=str(tmp_path), split="val"), (3, 32, 32), 10)
    with pytest.raises(DataError, match="no train or test split"):
        load_dataset(TorchvisionConfig(name="Caltech101", root=str(tmp_path)), (3, 32, 32), 101)


def write_eurosat(root: Path) -> TorchvisionConfig:
    """Three images of two classes in the official layout, and one that is cut off."""
    for i, name in enumerate(("Forest/a", "Forest/b", "River/a", "River/cut")):
        place = root / "eurosat" / "2750" / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(coloured(i))[: 100 if name == "River/cut" else None])
    return TorchvisionConfig(name="EuroSAT", root=str(root))


def test_images_alone_need_no_split(tmp_path: Path) -> None:
    config = write_eurosat(tmp_path)
    found = load_unlabelled(config, (3, 8, 8))
    assert np.array_equal(found.images, np.stack([coloured(i).transpose(2, 0, 1) for i in range(3)]))
    assert found.num_skipped == 1
    with pytest.raises(DataError, match="no train or test split"):
        load_dataset(config, (3, 8, 8), 2)


def test_data_sets_that_are_not_images_in_a_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import EuroSAT

    with pytest.raises(DataError, match="torchvision CocoDetection needs annFile besides root: use an image_folder"):
        load_unlabelled(TorchvisionConfig(name="CocoDetection", root=str(tmp_path)), (3, 8, 8))
    config = write_eurosat(tmp_path)
    monkeypatch.setattr(EuroSAT, "__getitem__", lambda self, i: (("left", "right"), 0))
    with pytest.raises(DataError, match="torchvision EuroSAT has tuple in place of an image"):
        load_unlabelled(config, (3, 8, 8))


def test_a_huge_image_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    config = write_eurosat(tmp_path)
    (tmp_path / "eurosat" / "2750" / "Forest" / "b.png").write_bytes(encoded(coloured(1, size=32)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert len(load_unlabelled(config, (3, 8, 8))) == 2
