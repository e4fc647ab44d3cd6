"""A package outside of the repository adds a method, an objective and a kind of data set, by one module and entry points."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_experiment import experiment, same, student_of

MODULE = Path(__file__).parent / "toy_package" / "toy_distillation.py"
ENTRY_POINTS = """\
[raydfkd.methods]
toy_stripes = toy_distillation:METHOD
toy_broken = toy_missing:METHOD

[raydfkd.objectives]
toy_squared = toy_distillation:OBJECTIVE

[raydfkd.datasets]
toy_ramps = toy_distillation:DATASET
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip leaves one: the module, and metadata that name its entry points."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(MODULE, folder)
    metadata = folder / "toy_distillation-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-distillation\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def raydfkd(package: Path, *arguments: object, rc: int = 0) -> str:
    """The command in a fresh process that has the package on its path; its output, or its error where ``rc`` is not 0."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "raydfkd", *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == rc, done.stderr
    return done.stderr if rc else done.stdout


def test_its_entries_are_listed_and_their_settings_are_in_the_reference(package: Path) -> None:
    listed = raydfkd(package, "methods")
    for name in ("toy_stripes", "toy_squared", "toy-distillation"):
        assert name in listed
    reference = raydfkd(package, "config", "reference")
    assert "[method=toy_stripes].width` (whole number, at least 1; default 2): Width of a stripe in pixels" in reference
    assert "[kind=toy_squared].weight`" in reference
    assert "[kind=toy_ramps].num_images`" in reference


@pytest.mark.slow
def test_it_runs_by_name_through_both_runners(package: Path, teacher: Path, tmp_path: Path) -> None:
    tree = experiment(teacher, student={"objective": {"kind": "toy_squared", "weight": 0.5}})
    stripes = {"method": "toy_stripes", "width": 4, "batch_size": 32, "resources": {"num_cpus": 1, "num_threads": 1}}
    tree |= {"sources": {"stripes": stripes}, "evaluation": {"dataset": {"kind": "toy_ramps"}}}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(tree))
    for runner in ("local", "ray"):
        raydfkd(package, "run", tmp_path / "e.yaml", "--out", tmp_path / runner, f"runtime.runner={runner}")
    assert same(student_of(tmp_path / "local"), student_of(tmp_path / "ray"))
    result = json.loads((tmp_path / "ray" / "result.json").read_text())
    assert (result["method"], result["students"]["small"]["objective"]) == ("toy_stripes", "toy_squared")
    assert result["student"]["metric_last"] is not None


def test_its_settings_are_checked_like_ours_and_what_is_broken_is_named(package: Path, teacher: Path, tmp_path: Path) -> None:
    tree = experiment(teacher) | {"sources": {"stripes": {"method": "toy_stripes", "widht": 4}}}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(tree))
    refused = raydfkd(package, "run", tmp_path / "e.yaml", rc=2)
    assert "unknown key sources.stripes.widht: did you mean 'width'?" in refused
    assert "method 'toy_broken' of package toy-distillation cannot be used (ModuleNotFoundError" in refused
