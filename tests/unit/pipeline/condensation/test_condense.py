"""Making a condensed set without Ray: what is written, what is told, how it goes on, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydfkd.data.condensation.condensed_set import CondensedSet, load_condensed
from raydfkd.data.datasets import load_dataset
from raydfkd.data.kinds.digits import DigitsConfig
from raydfkd.errors import ConfigError, DataError, RunDirError
from raydfkd.pipeline.condensation.condense import Estimate, LocalPool, condense
from raydfkd.pipeline.condensation.config import CondenseConfig, load_condense
from raydfkd.pipeline.condensation.evaluation import Recipe, accuracies, random_real
from raydfkd.pipeline.run import stop_signals
from raydfkd.pipeline.run.stop_signals import StopSignal


def settings(**sections: Any) -> CondenseConfig:
    """Two digits of each class, by a shallow network."""
    tree: dict[str, Any] = {
        "dataset": {"kind": "digits", "split": "train", "max_images": 300},
        "images_per_class": 2,
        "network": "conv_net_1",
        "method": {"kind": "dm", "iterations": 6, "iterations_per_round": 2, "real_batch_size": 8},
        "runtime": {"device": "cpu", "checkpoint_period_s": 1e-9},
        **sections,
    }
    return CondenseConfig.model_validate(tree)


def test_a_set_says_what_it_is_and_how_it_was_made(tmp_path: Path) -> None:
    told: list[tuple[str, int, int, dict[str, float]]] = []
    estimates: list[Estimate] = []
    done = condense(settings(), tmp_path / "toy.parquet", LocalPool, lambda *one: told.append(one), estimates.append)
    found = load_condensed(done.path)
    assert found.images.shape == (20, 1, 8, 8)
    assert found.labels.tolist() == np.repeat(np.arange(10), 2).tolist()
    assert found.about["settings"]["method"]["kind"] == "dm"
    assert found.about["network"] == "conv_net_1"
    assert len(found.about["mean"]) == 1
    assert found.about["packages"]["torch"]
    assert [one[:3] for one in told] == [("iterations", done, 6) for done in (2, 4, 6)]
    assert all(figures["loss"] > 0 for *_, figures in told)
    (estimate,) = estimates
    assert estimate.hours > 0
    assert estimate.peak_bytes > 50e6, "torch alone takes more"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checksums.json", "toy.parquet", "toy.png"]


def test_a_signal_stops_it_with_what_it_has_done_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = condense(settings(), tmp_path / "unbroken.parquet").found

    def stop(what: str, done: int, total: int, figures: dict[str, float]) -> None:
        if done == 4:
            monkeypatch.setattr(stop_signals._received, "name", "SIGTERM")

    path = tmp_path / "broken.parquet"
    with pytest.raises(StopSignal, match="SIGTERM"):
        condense(settings(runtime={"checkpoint_period_s": 1000}), path, tell=stop)
    monkeypatch.setattr(stop_signals._received, "name", None)
    told: list[int] = []
    found = condense(settings(), path, tell=lambda what, done, total, figures: told.append(done)).found
    assert told == [6]
    np.testing.assert_array_equal(found.images, unbroken.images)


def test_stopped_it_goes_on_where_it_was(tmp_path: Path) -> None:
    unbroken = condense(settings(), tmp_path / "unbroken.parquet").found

    def stop(what: str, done: int, total: int, figures: dict[str, float]) -> None:
        if done == 4:
            raise KeyboardInterrupt

    path = tmp_path / "broken.parquet"
    with pytest.raises(KeyboardInterrupt):
        condense(settings(), path, tell=stop)
    assert not path.exists()
    with pytest.raises(RunDirError, match=r"begun with other settings \(images_per_class was 2 and is 3\): use the same, rem"):
        condense(settings(images_per_class=3), path)
    told: list[int] = []
    found = condense(settings(), path, tell=lambda what, done, total, figures: told.append(done)).found
    assert told == [4, 6], "what was told when it stopped was not saved yet"
    np.testing.assert_array_equal(found.images, unbroken.images)
    with pytest.raises(RunDirError, match="is there already: choose another --name or --out"):
        condense(settings(), path)


def test_a_set_is_gone_on_from(tmp_path: Path) -> None:
    first = condense(settings(), tmp_path / "first.parquet")
    slow = {"kind": "dm", "iterations": 1, "image_lr": 1e-9, "real_batch_size": 8}
    second = condense(settings(start_from=str(first.path), method=slow), tmp_path / "second.parquet")
    np.testing.assert_array_equal(first.found.images, second.found.images)
    with pytest.raises(DataError, match=r"2 to 2 of each of 10 classes, and 3 of \[1, 8, 8\] are to be made"):
        condense(settings(start_from=str(first.path), images_per_class=3), tmp_path / "third.parquet")


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    (tmp_path / "wrong.yaml").write_text("{dataset: {kind: digits}, images_per_class: 2, method: {kind: dd}}")
    with pytest.raises(ConfigError, match=r"method.kind"):
        load_condense(str(tmp_path / "wrong.yaml"))
    with pytest.raises(DataError, match="class 1 has 30 images and images_per_class is 31"):
        condense(settings(images_per_class=31), out)
    with pytest.raises(DataError, match="num_classes 11"):
        condense(settings(num_classes=11), out)
    with pytest.raises(ConfigError, match="normalization has 3 channels and the images 1"):
        condense(settings(normalization={"mean": [0.5] * 3, "std": [0.5] * 3}), out)
    with pytest.raises(RunDirError, match=r"give a file name that ends in .parquet"):
        condense(settings(), tmp_path / "x.pt")
    with pytest.raises(ValueError, match="runner local does not use num_workers"):
        settings(runtime={"num_workers": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.yaml"], "nothing is begun"


def test_names_and_short_forms(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("{kind: digits, split: train}")
    config = load_condense(str(tmp_path / "data.yaml"), ["images_per_class=5", "method.kind=mtt", "method.experts=3"])
    assert config.name == "digits_mtt_5"
    assert config.method.experts == 3  # type: ignore[attr-defined]
    named = load_condense("cifar10/train", ["images_per_class=50"])
    assert named.name == "cifar10_dm_50"
    assert named.dataset.location == "cifar10/train"


def test_networks_learn_a_set_and_are_measured_on_real_images() -> None:
    """Networks that see ten digits a class know far more than chance, with soft labels as well."""
    import torch

    train = load_dataset(DigitsConfig(split="train"), (1, 8, 8), 10)
    test = load_dataset(DigitsConfig(split="test", max_images=150), (1, 8, 8), 10)
    few = random_real(train, 10, seed=0)
    assert np.bincount(few.labels).tolist() == [10] * 10
    recipe = Recipe("conv_net_1", networks=2, epochs=30, operations=("crop", "scale"))
    measured = accuracies(few, test, (0.3,), (0.3,), recipe, torch.device("cpu"))
    assert len(measured) == 2
    assert all(accuracy > 0.6 for accuracy in measured), "chance is 0.1; measured 0.75 to 0.9"
    soft = CondensedSet(few.images, few.labels, few.classes, np.eye(10, dtype=np.float32)[few.labels])
    torch.testing.assert_close(accuracies(soft, test, (0.3,), (0.3,), recipe, torch.device("cpu")), measured, atol=0.03, rtol=0)
    other = CondensedSet(few.images[:, :, :4, :4], few.labels, few.classes)
    with pytest.raises(ConfigError, match=r"the set has 10 classes and images .* the test images 10 and .*: evaluate it on"):
        accuracies(other, test, (0.3,), (0.3,), recipe, torch.device("cpu"))
