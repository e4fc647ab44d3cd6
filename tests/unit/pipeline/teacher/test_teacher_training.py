from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from raydfkd.augment import AugmentationConfig
from raydfkd.data.datasets import load_dataset
from raydfkd.data.kinds.digits import DigitsConfig
from raydfkd.data.kinds.torchvision_sets import TorchvisionConfig
from raydfkd.distillation.config import OptimizerConfig
from raydfkd.errors import CheckpointError, DataError, ResourceError, RunFailedError, UnknownNameError
from raydfkd.evaluation import evaluate
from raydfkd.models.catalog import build_classifier
from raydfkd.models.teachers.teacher import build_teacher
from raydfkd.models.weights import read_metadata
from raydfkd.pipeline.experiment.yaml_files import read_yaml, validate
from raydfkd.pipeline.teacher.config import NormalizationConfig, TeacherTrainingConfig, load_teacher_training
from raydfkd.pipeline.teacher.training import _initial_network, train_teacher

ROOT = Path(__file__).parents[4]


def digits(**changes: Any) -> TeacherTrainingConfig:
    """A training of a few seconds at most; enough to learn something."""
    settings: dict[str, Any] = {
        "model": "small_cnn_8",
        "num_classes": 10,
        "image_shape": (1, 8, 8),
        "dataset": DigitsConfig(split="train", max_images=300),
        "evaluation": DigitsConfig(split="test"),
        "epochs": 3,
        "batch_size": 32,
        "optimizer": OptimizerConfig(lr=0.1, nesterov=True),
        "crop_padding": 1,
        "flip": False,
        "bf16": False,
        "device": "cpu",
    }
    return TeacherTrainingConfig(**{**settings, **changes})


def test_the_file_alone_says_how_to_use_it(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "teacher.safetensors"
    result = train_teacher(digits(), path)
    assert result.path == path
    assert result.epochs == 3
    assert result.seconds > 0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["train_split"] == "digits/train"
    assert metadata["evaluation_split"] == "digits/test"
    shape, classes = tuple(json.loads(metadata["image_shape"])), int(metadata["num_classes"])
    mean, std = json.loads(metadata["mean"]), json.loads(metadata["std"])
    teacher = build_teacher(metadata["model"], classes, shape, mean, std, path)
    again = evaluate(teacher, load_dataset(DigitsConfig(split="test"), shape, classes))
    assert result.accuracy == pytest.approx(again.metric, abs=1.5 / 359)
    assert float(metadata["accuracy"]) == pytest.approx(result.accuracy, abs=1e-4)
    assert result.accuracy is not None
    assert result.accuracy > 0.2, "a few steps on 300 digits are above chance"
    assert json.loads(metadata["classes"]) == list("0123456789")
    pixels = load_dataset(digits().dataset, shape, classes).images / 255
    np.testing.assert_allclose([mean[0], std[0]], [pixels.mean(), pixels.std()], atol=1e-4)


def test_a_seed_repeats_the_weights_and_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_teacher(digits(epochs=1, evaluation=None, seed=seed), tmp_path / f"{name}.safetensors")
        states.append(load_file(tmp_path / f"{name}.safetensors"))
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not torch.equal(states[0]["fc.weight"], states[2]["fc.weight"])
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_progress_tells_each_epoch(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    train_teacher(digits(evaluation=None), tmp_path / "t.safetensors", records.append)
    assert [(r["epoch"], r["epochs"]) for r in records] == [(1, 3), (2, 3), (3, 3)]
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["train_accuracy"] > records[0]["train_accuracy"]
    assert records[0]["elapsed_s"] < records[-1]["elapsed_s"]
    assert all(r["images_per_s"] > 0 for r in records)
    assert records[-1]["lr"] == pytest.approx(2e-4), "the schedule ends with the last step"


def test_without_evaluation_data_nothing_is_claimed(tmp_path: Path) -> None:
    result = train_teacher(digits(epochs=1, evaluation=None), tmp_path / "t.safetensors")
    assert result.accuracy is None
    with safe_open(result.path, framework="pt") as file:
        assert "accuracy" not in file.metadata()


@pytest.mark.parametrize(
    "changes",
    [
        {"ema_decay": 0.9},
        {"label_smoothing": 0.3},
        {"crop_padding": 0},
        {"flip": True},
        {"augmentation": AugmentationConfig(level="standard")},
        {"batch_size": 50},
        {"normalization": NormalizationConfig(mean=[0.1], std=[0.5])},
        {"optimizer": OptimizerConfig(lr=0.1, nesterov=True, max_grad_norm=0.1)},
        {"optimizer": OptimizerConfig(lr=0.1, nesterov=False)},
        {"optimizer": OptimizerConfig(lr=0.1, nesterov=True, weight_decay=0.01)},
        {"optimizer": OptimizerConfig(lr=0.1, nesterov=True, schedule="one_cycle", warmup_steps=3)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_setting_is_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    plain = train_teacher(digits(epochs=1, evaluation=None), tmp_path / "plain.safetensors")
    changed = train_teacher(digits(epochs=1, evaluation=None, **changes), tmp_path / "changed.safetensors")
    assert not torch.equal(load_file(plain.path)["fc.weight"], load_file(changed.path)["fc.weight"])


def test_it_begins_from_the_weights_of_another_task_with_a_head_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A learning rate of next to nothing leaves what the training began from to be seen."""
    torch.manual_seed(1)
    other = build_classifier("small_cnn_8", 7, (1, 8, 8))
    torch.save(other.state_dict(), tmp_path / "other.pt")
    still = {"epochs": 1, "evaluation": None, "optimizer": OptimizerConfig(lr=1e-12, final_lr=0, weight_decay=0)}
    with caplog.at_level(logging.INFO):
        from_other = train_teacher(digits(**still, initial_weights=tmp_path / "other.pt"), tmp_path / "a.safetensors")
    assert "other.pt; fc.weight and fc.bias are randomly initialised, for 10 classes" in caplog.text
    from_random = train_teacher(digits(**still), tmp_path / "b.safetensors")
    begun, random, given = load_file(from_other.path), load_file(from_random.path), other.state_dict()
    for name, _ in other.named_parameters():
        torch.testing.assert_close(begun[name], (random if name.startswith("fc.") else given)[name], rtol=0, atol=1e-6)
    assert read_metadata(from_other.path)["initial_weights"] == "other.pt"
    assert "initial_weights" not in read_metadata(from_random.path)


def test_it_begins_from_the_logits_of_a_network_of_the_same_classes(tmp_path: Path) -> None:
    first = train_teacher(digits(epochs=1, evaluation=None), tmp_path / "first.safetensors")
    config = digits(evaluation=None, seed=1, initial_weights=first.path)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = build_classifier("small_cnn_8", 10, (1, 8, 8))
    expected.load_state_dict(load_file(first.path))
    torch.testing.assert_close(_initial_network(config).eval()(images), expected.eval()(images))


def test_initial_weights_of_another_network_are_refused_before_training(tmp_path: Path) -> None:
    torch.save(build_classifier("wrn_10_1", 10, (1, 8, 8)).state_dict(), tmp_path / "other.pt")
    for name, told in (
        ("other.pt", "does not match the architecture of this SmallCNN"),
        ("none.pt", "there is no weights file"),
    ):
        with pytest.raises(CheckpointError, match=told) as caught:
            train_teacher(digits(initial_weights=tmp_path / name), tmp_path / "t.safetensors")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "t.safetensors").exists()


def test_initial_weights_are_looked_for_beside_the_recipe_and_else_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes, here = tmp_path / "recipes", tmp_path / "here"
    for folder in (recipes, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    recipe = recipes / "digits.yaml"
    recipe.write_text((ROOT / "experiments" / "teachers" / "digits.yaml").read_text())
    (here / "w.pt").touch()
    assert load_teacher_training(recipe, ["initial_weights=w.pt"]).initial_weights == here / "w.pt"
    (recipes / "w.pt").touch()
    assert load_teacher_training(recipe, ["initial_weights=w.pt"]).initial_weights == recipes / "w.pt"
    assert load_teacher_training(recipe).initial_weights is None


def test_a_batch_larger_than_the_data_is_the_data(tmp_path: Path) -> None:
    config = digits(dataset=DigitsConfig(split="train", max_images=20), batch_size=64, epochs=2, evaluation=None)
    assert train_teacher(config, tmp_path / "t.safetensors").path.exists()


def test_mistakes_are_told_before_training(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(CheckpointError, match=r"ends in \.safetensors"):
        train_teacher(digits(), tmp_path / "t.pt")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        train_teacher(digits(), tmp_path / "file" / "t.safetensors")
    with pytest.raises(ValueError, match="mixes images without their labels"):
        digits(augmentation=AugmentationConfig(mixup="batch"))
    with pytest.raises(UnknownNameError, match="small_cnn"):
        train_teacher(digits(model="small_cn"), path)
    with pytest.raises(DataError, match="cannot be read"):
        train_teacher(digits(evaluation=TorchvisionConfig(name="MNIST", root=str(tmp_path))), path)
    with pytest.raises(ValueError, match="2 channels but image_shape has 1"):
        digits(normalization=NormalizationConfig(mean=[0, 0], std=[1, 1]))
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="no CUDA device"):
            train_teacher(digits(device="cuda"), path)
    assert not path.exists()


def test_divergence_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match=r"diverged in epoch \d.*lower optimizer\.lr"):
        train_teacher(digits(optimizer=OptimizerConfig(lr=1e20)), tmp_path / "t.safetensors")


def test_the_digits_recipe_reaches_its_accuracy(tmp_path: Path) -> None:
    recipe = ROOT / "experiments" / "teachers" / "digits.yaml"
    config = validate(TeacherTrainingConfig, read_yaml(recipe), recipe)
    assert (train_teacher(config, tmp_path / "t.safetensors").accuracy or 0) >= 0.97
