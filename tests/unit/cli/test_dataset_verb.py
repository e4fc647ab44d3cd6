"""``raydfkd dataset inspect`` on Parquet files with a made-up teacher: what it prints, writes and refuses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raydfkd.models.catalog import build_classifier
from raydfkd.models.weights import save_weights
from raydfkd.replay.arrow import to_parquet
from raydfkd.testing.command import invoke
from raydfkd.types import SyntheticBatch

NAMES = ["zero", "one", "two", "three"]


raydfkd = partial(invoke, "dataset", "inspect")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that sees class 0 alone, and the same images as tensors and as PNG files."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("inspect")
    torch.manual_seed(0)
    network = build_classifier("small_cnn_4", 4, (1, 8, 8))
    with torch.no_grad():
        network.fc.bias.copy_(torch.tensor([50.0, 0.0, 0.0, 0.0]))  # type: ignore[union-attr, operator]
    metadata = {"model": "small_cnn_4", "num_classes": "4", "image_shape": "[1, 8, 8]", "mean": "[0.5]", "std": "[0.5]"}
    save_weights(network, folder / "teacher.safetensors", metadata | {"classes": json.dumps(NAMES)})
    save_weights(network, folder / "nameless.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8)).astype(np.uint8)
    none = np.zeros(12)
    batch = SyntheticBatch(images, none.astype(np.int64), none.astype(np.int32), none.astype(np.float32), "surrogate", "x", -1)
    (folder / "tensors").mkdir()
    for part in range(2):
        (folder / "tensors" / f"{part}.parquet").write_bytes(to_parquet(batch))
    encoded = []
    for image in images:
        Image.fromarray(image[0]).save(folder / "image.png")
        encoded.append((folder / "image.png").read_bytes())
    pq.write_table(pa.table({"image": encoded}), folder / "encoded.parquet")
    (folder / "photos" / "below").mkdir(parents=True)
    for i, content in enumerate(encoded):
        (folder / "photos" / ("below" if i % 2 else "") / f"{i:02d}.png").write_bytes(content)
    return folder


def test_figures_histogram_and_words(folder: Path) -> None:
    told = raydfkd(folder / "tensors", "--teacher", folder / "teacher.safetensors", "--attacked", 4)
    lines = {line.rsplit("  ", 1)[0].strip(): line.rsplit("  ", 1)[1].strip() for line in told.splitlines() if "  " in line}
    assert lines["images"] == "24"
    assert lines["share of exact duplicates"] == "0.5"
    assert lines["classes without images"] == "3"
    assert lines["relative class entropy"] == "0"
    assert lines["mean confidence of the teacher"] == "1"
    assert "3 of 4 classes are starved: the teacher predicts classes one, two, three for no image at all." in told
    assert any(line.split() == ["zero", "24", "#" * 40] for line in told.splitlines())


def test_encoded_images_are_the_same_to_it_and_fewer_can_be_read(folder: Path) -> None:
    weights = ("--teacher", folder / "teacher.safetensors", "--attacked", 0)
    told = raydfkd(folder / "encoded.parquet", *weights)
    assert "share of exact duplicates                 0" in told
    assert "median distance to the decision boundary  -" in told
    for path in (folder / "encoded.parquet", folder / "tensors", folder / "photos"):
        assert "images                                    5" in raydfkd(path, *weights, "--max-images", 5)


def test_a_folder_of_images_and_files_that_name_a_data_set(folder: Path) -> None:
    """A data set's own settings, a build's candidates, an experiment's collected images, beside the files that name them."""
    weights = ("--teacher", folder / "teacher.safetensors", "--attacked", 0)
    told = raydfkd(folder / "photos", *weights)
    assert "images                                    12\n" in told
    files = {
        "own.yaml": "{kind: image_folder, path: photos}",
        "build.yaml": "{task: {num_classes: 4}, dataset: {kind: parquet, path: encoded.parquet}}",
        "below/experiment.yml": "{base: ../base.yaml, collected: {num_images: 5}}",
        "base.yaml": "{collected: {dataset: {kind: image_folder, path: photos}}}",
    }
    (folder / "below").mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / "base.yaml").write_text(files["base.yaml"])
        assert raydfkd(folder / name, *weights) == told, name
    (folder / "built.yaml").write_text("{kind: parquet, path: tensors, max_images: 7}")
    assert "images                                    7\n" in raydfkd(folder / "built.yaml", *weights)


def test_what_is_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    raydfkd(folder / "tensors", "--teacher", folder / "teacher.safetensors", "--attacked", 3, "--out", out)
    written = json.loads((out / "figures.json").read_text())
    assert written["images"] == sum(written["class counts"]) == 24
    assert written["distinct class counts"] == [12, 0, 0, 0]
    for name in ("classes.png", "confidence.png", "diversity.png"):
        assert (out / name).read_bytes()[:4] == b"\x89PNG"


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    teacher = folder / "teacher.safetensors"
    assert "needs --teacher FILE to judge" in raydfkd(folder / "tensors", rc=2)
    assert "does not name its network" in raydfkd(folder / "tensors", "--teacher", folder / "nameless.safetensors", rc=2)
    assert "does not exist" in raydfkd(folder / "nothing", "--teacher", teacher, rc=2)
    assert "is a file: name a folder" in raydfkd(folder / "tensors", "--teacher", teacher, "--out", teacher, rc=2)
    (tmp_path / "none.yaml").write_text("{task: {num_classes: 4}, dataset: null, collected: images}")
    assert "none.yaml names no data set" in raydfkd(tmp_path / "none.yaml", "--teacher", teacher, rc=2)
    (tmp_path / "wrong.yaml").write_text("{kind: image_folder, folder: photos}")
    assert "dataset.folder" in raydfkd(tmp_path / "wrong.yaml", "--teacher", teacher, rc=2)
    (tmp_path / "empty").mkdir()
    assert "is empty" in raydfkd(tmp_path / "empty", "--teacher", teacher, rc=2)
    torch.manual_seed(0)
    other = tmp_path / "other.safetensors"
    metadata = {"model": "small_cnn_4", "num_classes": "4", "image_shape": "[1, 12, 12]", "mean": "[0.5]", "std": "[0.5]"}
    save_weights(build_classifier("small_cnn_4", 4, (1, 12, 12)), other, metadata)
    assert "rebuild it at that size" in raydfkd(folder / "tensors", "--teacher", other, rc=2)
