"""``raydfkd sweep`` where it is refused: one sentence, exit code 2, and nothing left behind. No Ray is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from raydfkd.cli.main import app
from raydfkd.sweep_dir import SweepDir

EXPERIMENT = """\
task: {kind: classification, num_classes: 10, image_shape: [1, 8, 8]}
teacher: {model: small_cnn_8, checkpoint: teacher.safetensors}
sources: {inversion: {method: ssdkd, batch_size: 16}}
replay: {synthetic: {capacity: 64, sampler: {kind: prioritized}}}
students: {small: {model: small_cnn_8, batch_size: 16}}
runtime: {runner: local}
"""
SWEEP = """\
experiment: exp.yaml
space: {students.small.optimizer.lr: {kind: grid, values: [0.1, 0.01]}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "exp.yaml").write_text(EXPERIMENT)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*arguments: str) -> str:
    told = CliRunner().invoke(app, ["sweep", *arguments])
    assert (told.exit_code, told.stdout) == (2, ""), told.output
    assert told.stderr.count("\n") == 1
    return told.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.yaml"], "none.yaml does not exist"),
        (["sweep.yaml", "space={students.small.optimizer.lrr: {kind: grid, values: [1]}}"], "did you mean 'lr'"),
        (["sweep.yaml", "space={schedule.rounds: {kind: grid, values: [few]}}"], "schedule.rounds is 'few'"),
        (["sweep.yaml", "search.num_trials=4"], "kind grid tries every point"),
        (["sweep.yaml", "overrides.schedule.round=4"], "did you mean 'rounds'"),
        (["sweep.yaml", "--resume"], "runs/sweep is not a sweep directory"),
        (["sweep.yaml", "--out", "exp.yaml/x"], "cannot be written"),
    ],
)
def test_a_refused_sweep(folder: Path, arguments: list[str], says: str) -> None:
    assert says in refused(*arguments)
    assert sorted(path.name for path in folder.iterdir()) == ["exp.yaml", "sweep.yaml"]


def test_a_sweep_that_goes_on_keeps_its_settings_and_a_finished_one_does_not_go_on(folder: Path) -> None:
    sweep = SweepDir.create(folder / "out")
    sweep.sweep_path.write_text(SWEEP.replace("exp.yaml", "../exp.yaml"))
    sweep.update_manifest(state="stopped")
    assert "keeps its settings" in refused("sweep.yaml", "objective.num_images=9", "--out", "out", "--resume")
    assert "holds a sweep already: continue it with --resume" in refused("sweep.yaml", "--out", "out")
    sweep.update_manifest(state="finished")
    assert "there is nothing to resume" in refused("out", "--resume")
