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
    return folder


def test_figures_histogram_and_words(folder: Path) -> None:
    told = raydfkd(folder / "tensors", "--teacher", folder / "teacher.safetensors", "--attacked", 4)
    lines = {line.rsplit("  ", 1)[0].strip(): line.rsplit("  ", 1)[1].strip() for line in told.splitlines() if "  " in line}
    assert lines["images"] == "24"
    assert lines["share of exact duplicates"] == "0.5"
    assert lines["classes without images"] == "3"
    assert lines["relative class entropy"] == "0"
    assert lines["mean confidence of the teacher"] == "1"
    assert "3 of 4 classes are starved: the teacher sees classes one, two, three in no image at all." in told
    assert any(line.split() == ["zero", "24", "#" * 40] for line in told.splitlines())


def test_encoded_images_are_the_same_to_it_and_fewer_can_be_read(folder: Path) -> None:
    weights = ("--teacher", folder / "teacher.safetensors", "--attacked", 0)
    told = raydfkd(folder / "encoded.parquet", *weights)
    assert "share of exact duplicates                 0" in told
    assert "median distance to the decision boundary  -" in told
    for path in (folder / "encoded.parquet", folder / "tensors"):
        assert "images                                    5" in raydfkd(path, *weights, "--max-images", 5)


def test_what_is_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    raydfkd(folder / "tensors", "--teacher", folder / "teacher.safetensors", "--attacked", 3, "--out", out)
    written = json.loads((out / "figures.json").read_text())
    assert written["images"] == sum(written["class counts"]) == 24
    for name in ("classes.png", "confidence.png"):
        assert (out / name).read_bytes()[:4] == b"\x89PNG"


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    teacher = folder / "teacher.safetensors"
    assert "needs --teacher FILE to judge" in raydfkd(folder / "tensors", rc=2)
    assert "does not say which network it is of" in raydfkd(
        folder / "tensors", "--teacher", folder / "nameless.safetensors", rc=2
    )
    assert "does not exist" in raydfkd(folder / "nothing", "--teacher", teacher, rc=2)
    assert "is a file: name a folder" in raydfkd(folder / "tensors", "--teacher", teacher, "--out", teacher, rc=2)
    torch.manual_seed(0)
    other = tmp_path / "other.safetensors"
    metadata = {"model": "small_cnn_4", "num_classes": "4", "image_shape": "[1, 12, 12]", "mean": "[0.5]", "std": "[0.5]"}
    save_weights(build_classifier("small_cnn_4", 4, (1, 12, 12)), other, metadata)
    assert "make them anew at its size" in raydfkd(folder / "tensors", "--teacher", other, rc=2)
