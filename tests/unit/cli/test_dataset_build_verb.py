"""``raydfkd dataset build`` as it is typed, without Ray: what it prints and refuses, and that its data set goes into a run."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from raydfkd.models.catalog import build_classifier
from raydfkd.models.weights import save_weights
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.pipeline.run.execute import execute
from raydfkd.run_dir import RunDir
from raydfkd.testing.command import invoke

TASK = "task: {num_classes: 10, image_shape: [1, 8, 8]}\nteacher: {model: small_cnn_4, checkpoint: teacher.safetensors}\n"
BUILD = f"""{TASK}
dataset: {{kind: digits, split: train, max_images: 40}}
selection: {{num_images: 30}}
runtime: {{runner: local, part_size: 16, bf16: false}}
"""
RUN = f"""{TASK}
collected: {{dataset: {{kind: parquet, path: built, split: rendered}}}}
replay: {{synthetic: {{capacity: 1}}, pinned: {{capacity: 30}}}}
students: {{small: {{model: small_cnn_4, batch_size: 8, crop_padding: 1, flip: false}}}}
schedule: {{warmup_batches: 0, batches_per_round: 0, rounds: 1, student_steps_per_round: 2}}
runtime: {{runner: local, bf16: false, device: cpu}}
"""


raydfkd = partial(invoke, "dataset")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verb")
    torch.manual_seed(0)
    metadata = {"model": "small_cnn_4", "num_classes": "10", "image_shape": "[1, 8, 8]", "mean": "[0.5]", "std": "[0.5]"}
    save_weights(build_classifier("small_cnn_4", 10, (1, 8, 8)), folder / "teacher.safetensors", metadata)
    (folder / "build.yaml").write_text(BUILD)
    (folder / "run.yaml").write_text(RUN)
    raydfkd("build", folder / "build.yaml", "--out", folder / "built")
    return folder


def test_it_tells_its_progress_and_what_it_built(folder: Path, tmp_path: Path) -> None:
    told = raydfkd("build", folder / "build.yaml", "--out", tmp_path / "out", "selection.num_images=12")
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert any(line.startswith("judging 40/40") for line in lines)
    assert any(line.startswith("writing 12/12") for line in lines)
    assert {"candidates 40", "images 12", "could not be read 0"} <= set(lines)
    manifest = json.loads((tmp_path / "out" / "build.json").read_text())
    missing = manifest["class_counts"].count(0)
    assert missing > 1
    assert lines[-2].startswith(f"{missing} of 10 classes are starved: the teacher predicts classes ")
    assert lines[-1] == f"data set: {tmp_path / 'out'}"
    assert (manifest["state"], manifest["split"], manifest["num_images"]) == ("finished", "train", 12)
    assert len(manifest["teacher_sha256"]) == 64


def test_a_class_of_one_image_is_starved_however_often_it_is_repeated(tmp_path: Path) -> None:
    """A teacher of dark and bright pictures, twenty dark ones and one bright one: balanced, there are twenty of each."""
    torch.manual_seed(0)
    network = build_classifier("small_cnn_4", 2, (1, 8, 8)).eval()
    dark, bright = torch.full((1, 1, 8, 8), -0.5), torch.full((1, 1, 8, 8), 0.5)
    with torch.no_grad():
        lead = network(bright) - network(dark)
        if lead[0, 1] < lead[0, 0]:
            network.fc.weight.neg_()  # type: ignore[union-attr, operator]
        network.fc.bias.sub_((network(bright) + network(dark))[0] / 2)  # type: ignore[union-attr, operator]
    metadata = {"model": "small_cnn_4", "num_classes": "2", "image_shape": "[1, 8, 8]", "mean": "[0.5]", "std": "[1.0]"}
    save_weights(network, tmp_path / "teacher.safetensors", metadata)
    (tmp_path / "pictures").mkdir()
    for i, level in enumerate([*range(20), 250]):
        Image.new("L", (8, 8), level).save(tmp_path / "pictures" / f"{i:02d}.png")
    (tmp_path / "build.yaml").write_text(
        "task: {num_classes: 2, image_shape: [1, 8, 8]}\n"
        "teacher: {model: small_cnn_4, checkpoint: teacher.safetensors, normalization: {mean: [0.5], std: [1.0]}}\n"
        "dataset: {kind: image_folder, path: pictures}\n"
        "selection: {num_images: 40}\n"
        "runtime: {runner: local, bf16: false}\n"
    )
    expected = (
        "1 of 2 classes is starved: class 1 (1 distinct image, repeated to 20) has, without copies, less than a tenth of an "
        "equal share of 20 images."
    )
    built = raydfkd("build", tmp_path / "build.yaml", "--out", tmp_path / "built")
    inspected = raydfkd("inspect", tmp_path / "built", "--teacher", tmp_path / "teacher.safetensors", "--attacked", 0)
    for told in (built, inspected):
        assert expected in told
        assert ["relative", "class", "entropy", "1"] in [line.split() for line in told.splitlines()]


def test_what_it_built_can_be_inspected_and_distilled_on(folder: Path, tmp_path: Path) -> None:
    told = raydfkd("inspect", folder / "built", "--teacher", folder / "teacher.safetensors", "--attacked", 2)
    assert "images" in told
    assert " 30" in told
    config = load_experiment(folder / "run.yaml")
    assert config.collected is not None
    result = execute(config, RunDir.create(tmp_path / "run"), resume=False, watcher=None, run_ray=lambda *arguments: None)
    assert (result["method"], result["student_steps"]) == ("collected", 2)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{folder}/none.yaml"], "none.yaml does not exist"),
        (["{folder}/build.yaml", "--out", "{folder}/built"], "already holds a finished data set: choose another --out"),
        (["{folder}/build.yaml", "--out", "{folder}/built", "--resume"], "is finished: there is nothing to resume"),
        (["{folder}/built"], "already holds a finished data set"),
        (["{folder}/build.yaml", "--out", "{folder}/teacher.safetensors"], "is a file: choose another --out"),
        (["{folder}/build.yaml", "--out", "{folder}/new", "selection.images=3"], "unknown key selection.images"),
        (["{folder}/build.yaml", "--out", "{folder}/new", "dataset.kind=parquet"], "dataset.path is missing"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(folder: Path, arguments: list[str], expected: str) -> None:
    told = raydfkd("build", *(one.format(folder=folder) for one in arguments), rc=2)
    assert expected in " ".join(told.split())
    assert "Traceback" not in told
    assert not (folder / "new").exists()
