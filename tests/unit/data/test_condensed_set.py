"""Condensed sets on disk, below the data root, and of other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raydfkd.data.checksums import checksum_of
from raydfkd.data.condensation.condensed_set import CondensedSet, load_condensed, save_condensed, to_bytes
from raydfkd.data.condensation.importing import import_torch_set
from raydfkd.data.datasets import load_dataset
from raydfkd.data.kinds.condensed import CondensedConfig
from raydfkd.errors import DataError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def some(channels: int = 3, soft: bool = False) -> CondensedSet:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, channels, 8, 8), dtype=np.uint8)
    probabilities = random.dirichlet(np.ones(3), 6).astype(np.float32) if soft else None
    return CondensedSet(images, np.array([0, 0, 1, 1, 2, 2]), ("a", "b", "c"), probabilities, {"settings": {"x": 1}})


@pytest.mark.parametrize(("channels", "soft"), [(3, False), (1, True)])
def test_a_saved_set_is_read_back(tmp_path: Path, channels: int, soft: bool) -> None:
    before = some(channels, soft)
    save_condensed(before, tmp_path / "set.parquet")
    found = load_condensed(tmp_path / "set.parquet")
    np.testing.assert_array_equal(found.images, before.images)
    np.testing.assert_array_equal(found.labels, before.labels)
    assert (found.classes, found.about) == (before.classes, before.about)
    if soft:
        np.testing.assert_array_equal(found.probabilities, before.probabilities)
    else:
        assert found.probabilities is None


def test_by_its_name_a_set_is_a_labelled_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDFKD_DATA", str(tmp_path))
    config = CondensedConfig(name="toys_dm_2")
    with pytest.raises(DataError, match=r"toys_dm_2 is not below .*: make it with raydfkd condense toys/train --method dm"):
        load_dataset(config, (3, 8, 8), 3)
    (tmp_path / "condensed").mkdir()
    save_condensed(some(), tmp_path / "condensed" / "toys_dm_2.parquet")
    found = load_dataset(config, (3, 8, 8), 3)
    np.testing.assert_array_equal(found.images, some().images)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.classes == ("a", "b", "c")
    assert checksum_of(config) is not None
    with pytest.raises(ValueError, match=r"condensed set '../x' cannot be used in file names"):
        CondensedConfig(name="../x")


def normalised(images: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(images).float() / 255 - mean) / std


def test_normalised_images_become_the_pixels_they_were() -> None:
    before = some().images
    np.testing.assert_array_equal(to_bytes(normalised(before).numpy(), MEAN, STD), before)
    beyond = np.array([9.0, -9.0], np.float32).reshape(2, 1, 1, 1) * np.ones((2, 3, 2, 2), np.float32)
    assert to_bytes(beyond, MEAN, STD)[:, 0, 0, 0].tolist() == [255, 0]


def test_sets_of_others_are_imported(tmp_path: Path) -> None:
    """As DC, DSA and DM save several experiments with their accuracies, and as MTT saves images and labels."""
    one = some()
    pair = [normalised(one.images), torch.from_numpy(one.labels)]
    accuracies = {"ConvNet": [np.float64(0.5), np.mean([0.25, 0.5])]}
    torch.save({"data": [[pair[0][:3], pair[1][:3]], pair], "accs_all_exps": accuracies}, tmp_path / "res.pt")
    found = import_torch_set(tmp_path / "res.pt", None, 1, MEAN, STD, ("a", "b", "c"))
    np.testing.assert_array_equal(found.images, one.images)
    assert found.labels.tolist() == one.labels.tolist()
    assert found.about["mean"] == list(MEAN)
    torch.save(pair[0], tmp_path / "images_best.pt")
    torch.save(pair[1], tmp_path / "labels_best.pt")
    found = import_torch_set(tmp_path / "images_best.pt", tmp_path / "labels_best.pt", 0, MEAN, STD, None)
    np.testing.assert_array_equal(found.images, one.images)
    assert found.classes == ("0", "1", "2")
    logits = torch.tensor([[4.0, 0, 0]] * 2 + [[0, 4.0, 0]] * 2 + [[0, 0, 4.0]] * 2)
    torch.save(logits, tmp_path / "soft.pt")
    found = import_torch_set(tmp_path / "images_best.pt", tmp_path / "soft.pt", 0, MEAN, STD, None)
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, logits.softmax(1).numpy())
    assert found.labels.tolist() == one.labels.tolist()


def test_what_cannot_be_imported_is_refused(tmp_path: Path) -> None:
    images, labels = normalised(some().images), torch.from_numpy(some().labels)
    torch.save(images, tmp_path / "images.pt")
    torch.save(labels, tmp_path / "labels.pt")
    torch.save({"data": [[images, labels]]}, tmp_path / "res.pt")
    (tmp_path / "text.pt").write_text("no tensor")

    def refused(match: str, name: str = "images.pt", beside: str | None = "labels.pt", **other: object) -> None:
        given = {"number": 0, "mean": MEAN, "std": STD, "classes": None, **other}
        with pytest.raises(DataError, match=match):
            import_torch_set(tmp_path / name, None if beside is None else tmp_path / beside, **given)  # type: ignore[arg-type]

    refused("images.pt holds images alone: name the file of their labels with --labels", beside=None)
    refused("res.pt holds 1 sets: choose --number from 0 to 0", "res.pt", None, number=1)
    refused(r"% of the values of .* lie outside of black and white .* whitened \(ZCA\)", mean=(3.0, 3.0, 3.0))
    refused("has images of 3 channels and the normalisation 1", mean=(0.5,), std=(0.5,))
    refused("labels of 3 classes and the data set 2", classes=("a", "b"))
    refused("text.pt cannot be read as a torch file", "text.pt")
    refused("gone.pt does not exist", "gone.pt")
    refused("needs float images", "labels.pt")


def test_another_file_is_no_condensed_set(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [b"x"], "label": [1]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("text")
    for name, match in (("other", "is no condensed set"), ("text", "cannot be read as Parquet"), ("gone", "does not exist")):
        with pytest.raises(DataError, match=match):
            load_condensed(tmp_path / f"{name}.parquet")
