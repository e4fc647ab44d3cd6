"""Relative paths in settings: where they are looked for, and that every setting that names a file is found by its type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydfkd.cli.config_reference import settings_of
from raydfkd.data.config import CollectedConfig
from raydfkd.pipeline.dataset.config import DatasetBuildConfig
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.experiment.input_paths import absolute, anchor_paths, input_paths
from raydfkd.pipeline.teacher.config import TeacherTrainingConfig


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(the folder of the file of settings, the working directory): ``both`` is in both, ``here`` in the latter alone."""
    beside, here = tmp_path / "experiments", tmp_path / "project"
    for folder in (beside, here):
        folder.mkdir()
        (folder / "both.parquet").touch()
    (here / "here.parquet").touch()
    monkeypatch.chdir(here)
    return beside, here


def test_a_path_is_looked_for_beside_the_file_then_in_the_working_directory(folders: tuple[Path, Path]) -> None:
    beside, here = folders
    tree = {"dataset": {"kind": "parquet", "path": ["both.parquet", "here.parquet", "nowhere.parquet", "/absolute.parquet"]}}
    assert anchor_paths(tree, CollectedConfig, beside)["dataset"]["path"] == [
        str(beside / "both.parquet"),
        str(here / "here.parquet"),
        str(beside / "nowhere.parquet"),
        "/absolute.parquet",
    ]
    assert tree["dataset"]["path"][0] == "both.parquet", "the given settings stay as they were"
    hub = anchor_paths({"teacher": {"model": "hf:./vit"}}, ExperimentConfig, beside)
    assert hub == {"teacher": {"model": f"hf:{beside / 'vit'}"}}


@pytest.mark.parametrize(
    ("tree", "anchored"),
    [
        ({"evaluation": {"dataset": {"path": "x"}}}, {"evaluation.dataset.path"}),  # a layer need not say which kind it changes
        ({"evaluation": {"dataset": {"kind": "torchvision", "name": "MNIST", "root": "x"}}}, {"evaluation.dataset.root"}),
        ({"teacher": {"model": "net.pt2", "checkpoint": "t.pt"}}, {"teacher.model", "teacher.checkpoint"}),
        ({"teacher": {"model": "wrn_16_2"}}, set()),
        ({"teacher": {"model": "hf:./vit"}, "students": {"a": {"model": "hf:../vit"}}}, {"teacher.model", "students.a.model"}),
        ({"teacher": {"model": "hf:org/vit"}, "students": {"a": {"model": "./no_prefix"}}}, set()),
        ({"students": {"a": {"checkpoint": "a.pt"}, "b": {"checkpoint": None}}}, {"students.a.checkpoint"}),
        ({"sources": {"s": {"images": {"kind": "glsl_folder", "path": "x"}}}}, {"sources.s.images.path"}),
        (
            {"sources": {"s": {"images": {"kind": "crops", "dataset": {"kind": "image_folder", "path": "x"}}}}},
            {"sources.s.images.dataset.path"},
        ),
        ({"collected": {"exclude": "e.parquet"}, "held_out": {"path": "h.parquet"}}, {"collected.exclude", "held_out.path"}),
        ({"runtime": {"out": "runs/x"}, "unknown": {"path": "x"}, "teacher": 5}, set()),
    ],
)
def test_what_is_a_path_is_said_by_its_type(tree: dict[str, Any], anchored: set[str]) -> None:
    assert {dotted for dotted, _, _ in input_paths(tree, ExperimentConfig)} == anchored


@pytest.mark.parametrize("model", [ExperimentConfig, DatasetBuildConfig, TeacherTrainingConfig])
def test_no_setting_that_names_a_file_or_a_folder_is_forgotten(model: Any) -> None:
    """By their names and types: what is written, and not read, is the exception."""
    named = ("path", "root", "checkpoint", "exclude", "initial_weights")
    found = {
        path: info
        for path, _, _, info in settings_of(model)
        if path.rsplit(".", 1)[-1] in named or "Path" in str(info.annotation)
    }
    found.pop("runtime.out", None)
    assert found
    unmarked = [path for path, info in found.items() if "InputFile" not in f"{info.annotation} {info.metadata}"]
    assert unmarked == []


def test_a_link_keeps_its_name_and_two_dots_mean_what_the_system_means(tmp_path: Path) -> None:
    """Caches keep files under their hashes, with links that have the suffix."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/3f2a").write_bytes(b"")
    (tmp_path / "t.safetensors").symlink_to("blobs/3f2a")
    assert absolute("t.safetensors", tmp_path) == str(tmp_path / "t.safetensors")
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "near").symlink_to("far/away")
    assert absolute("near/../x.yaml", tmp_path) == str(tmp_path / "far/x.yaml")
    assert absolute("near/x.yaml", tmp_path) == str(tmp_path / "near/x.yaml")
