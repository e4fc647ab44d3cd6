"""Experiments that hold only what differs from another file: how the layers join, and each mistake's sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydfkd.errors import ConfigError
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.pipeline.experiment.yaml_files import merge, read_layers

WHOLE = """\
task: {kind: classification, num_classes: 10, image_shape: [1, 8, 8]}
teacher: {model: small_cnn_8, checkpoint: teacher.safetensors}
sources: {inversion: {method: ssdkd, batch_size: 16, bn_weight: 3}}
replay: {synthetic: {capacity: 64, sampler: {kind: prioritized, priority_exponent: 0.5}}}
students: {small: {model: small_cnn_8, checkpoint: start.pt, batch_size: 16}}
schedule: {rounds: 7}
evaluation: {dataset: {kind: parquet, path: [a.parquet, /b.parquet]}}
runtime: {runner: local}
"""


def write(folder: Path, **files: str) -> Path:
    """Writes NAME.yaml files and returns the last one's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.write_text(text)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mappings_merge_and_everything_else_is_replaced() -> None:
    lower = {"a": {"x": 1, "y": [1, 2]}, "b": {"x": 1}, "c": 3}
    upper = {"a": {"y": [3], "z": None}, "b": None, "c": {"x": 1}, "d": 4}
    assert merge(lower, upper) == {"a": {"x": 1, "y": [3], "z": None}, "b": None, "c": {"x": 1}, "d": 4}
    assert lower == {"a": {"x": 1, "y": [1, 2]}, "b": {"x": 1}, "c": 3}


def test_a_mapping_of_another_kind_replaces_the_one_below() -> None:
    lower = {"sampler": {"kind": "prioritized", "priority_exponent": 0.5}}
    assert merge(lower, {"sampler": {"kind": "uniform"}}) == {"sampler": {"kind": "uniform"}}
    same = merge(lower, {"sampler": {"kind": "prioritized", "importance_exponent": 1}})
    assert same["sampler"] == {"kind": "prioritized", "priority_exponent": 0.5, "importance_exponent": 1}
    assert merge(lower, {"sampler": {"priority_exponent": 1}})["sampler"]["kind"] == "prioritized"
    assert merge({"o": {"temperature": 4}}, {"o": {"kind": "kl"}}) == {"o": {"temperature": 4, "kind": "kl"}}


def test_a_chain_of_files_is_read_from_the_lowest_up_and_overrides_come_last(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        whole=WHOLE,
        uniform="base: whole.yaml\nreplay: {synthetic: {sampler: {kind: uniform}}}\nschedule: {rounds: 8}\n",
        longer="base: uniform.yaml\nschedule: {student_steps_per_round: 9}\n",
    )
    config = load_experiment(path, ["sources.inversion.batch_size=32"])
    assert (config.schedule.rounds, config.schedule.student_steps_per_round) == (8, 9)
    assert config.replay.synthetic.sampler.kind == "uniform"
    assert (config.sources["inversion"].bn_weight, config.sources["inversion"].batch_size) == (3, 32)
    assert [file.name for file, _ in read_layers(path)] == ["whole.yaml", "uniform.yaml", "longer.yaml"]


def test_a_file_with_nothing_but_a_base_is_that_base(tmp_path: Path) -> None:
    path = write(tmp_path, whole=WHOLE, same="base: ./whole.yaml\n")
    assert load_experiment(path) == load_experiment(tmp_path / "whole.yaml")


def test_each_file_s_paths_are_looked_for_beside_that_file(tmp_path: Path) -> None:
    write(tmp_path / "below", whole=WHOLE)
    path = write(tmp_path / "above", mine="base: ../below/whole.yaml\nstudents: {small: {checkpoint: mine.pt}}\n")
    config = load_experiment(path)
    assert config.teacher.checkpoint == tmp_path / "below" / "teacher.safetensors"
    assert config.student.checkpoint == tmp_path / "above" / "mine.pt"
    assert config.evaluation is not None
    assert config.evaluation.dataset.path == [str(tmp_path / "below" / "a.parquet"), "/b.parquet"]
    other = "base: whole.yaml\nteacher: {model: net.pt2}\nevaluation: {dataset: {kind: torchvision, name: MNIST, root: d}}\n"
    write(tmp_path / "below", other=other)
    config = load_experiment(write(tmp_path / "above", mine="base: ../below/other.yaml\n"))
    assert config.teacher.model == str(tmp_path / "below" / "net.pt2")
    assert config.evaluation is not None
    assert config.evaluation.dataset.root == str(tmp_path / "below" / "d")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("base: none.yaml", "its base {folder}/none.yaml does not exist"),
        ("base: .", "its base {folder} does not exist"),
        ("base: null", "base is None: it must be the path of the YAML file that this one extends"),
        ("base: [a.yaml]", "base is ['a.yaml']: it must be the path"),
        ("base: mine.yaml", "its base is circular (mine.yaml -> mine.yaml)"),
        ("base: list.yaml", "list.yaml holds a list: it must hold 'key: value' lines"),
        ("base: whole.yaml\nschedule: {roundz: 1}", "mine.yaml (with its base whole.yaml): unknown key schedule.roundz"),
        ("base: whole.yaml\nteacher: 5", "teacher is 5"),
        ("base: odd.yaml", "teacher.checkpoint is 5"),
    ],
)
def test_what_is_wrong_with_a_base_is_said(tmp_path: Path, line: str, expected: str) -> None:
    odd = WHOLE.replace("checkpoint: teacher.safetensors", "checkpoint: 5")
    path = write(tmp_path, whole=WHOLE, odd=odd, list="- 1\n", mine=line + "\n")
    assert expected.format(folder=tmp_path) in refusal(path)


def test_a_longer_circle_is_shown_whole(tmp_path: Path) -> None:
    path = write(tmp_path, c="base: a.yaml\n", b="base: c.yaml\n", a="base: b.yaml\n")
    assert "c.yaml: its base is circular (a.yaml -> b.yaml -> c.yaml -> a.yaml)" in refusal(path)


def test_base_is_no_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key base"):
        load_experiment(write(tmp_path, whole=WHOLE), ["base=other.yaml"])
