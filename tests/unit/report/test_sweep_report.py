"""A sweep's directory read back, and its report, on a fabricated sweep."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from raydfkd.errors import RunDirError
from raydfkd.report.sweep.sweep_page import write_sweep_report
from raydfkd.report.sweep.sweep_words import settings_text, short_names
from raydfkd.run_dir import MetricsWriter, RunDir
from raydfkd.sweep_dir import SweepDir, best_of

LR, CAPACITY, OBJECTIVE = "students.small.optimizer.lr", "replay.synthetic.capacity", "students.small.objective.kind"


def write_trial(
    folder: SweepDir, name: str, state: str, values: list[float], error: str | None = None, **settings: Any
) -> None:
    keys = {"lr": LR, "capacity": CAPACITY, "objective": OBJECTIVE}
    run = RunDir.create(folder.trial_path(name))
    run.update_manifest(state=state)
    writer = MetricsWriter(run)
    for number, value in enumerate(values, 1):
        writer.write("held_out", 100 * number, agreement_last=value - 0.1, agreement_ema=value)
    writer.close()
    folder.update_trial_file(name, settings={keys[key]: value for key, value in settings.items()}, error=error)


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDir:
    folder = SweepDir.create(tmp_path / "sweep")
    folder.sweep_path.write_text("space: {}\n")
    folder.update_manifest(
        state="finished", num_trials=6, search="random", scheduler="asha", concurrent=2, elapsed_s=125.0,
        objective={"record": "held_out", "field": "agreement_ema", "mode": "max", "label": "agreement with the teacher",
                   "measured_on": "1000 held-out images without labels"},
    )  # fmt: skip
    write_trial(folder, "00000", "finished", [0.5, 0.7, 0.8], lr=0.1, capacity=640, objective="kl")
    write_trial(folder, "00001", "finished", [0.5, 0.8, 0.9], lr=0.01, capacity=5000, objective="dkd")
    write_trial(folder, "00002", "stopped", [0.95], lr=0.001, capacity=640, objective="kl")
    write_trial(folder, "00003", "running", [0.2], error="ValueError: <no> luck", lr=10.0, capacity=5000, objective="kl")
    write_trial(folder, "00004", "stopped", [float("nan")], lr=0.5, capacity=5000, objective="dkd")
    folder.update_trial_file("00005", settings={LR: 0.2, CAPACITY: 640, OBJECTIVE: "kl"})
    folder.best_path.write_text("task: {}\n")
    return folder


def test_trials_are_read_with_their_curves_and_states(sweep: SweepDir) -> None:
    trials = {trial.name: trial for trial in sweep.trials()}
    assert [trial.state for trial in trials.values()] == ["finished", "finished", "stopped", "failed", "stopped", "waiting"]
    one = trials["00001"]
    assert (one.steps, one.values, one.objective, one.last_step) == ([100, 200, 300], [0.5, 0.8, 0.9], 0.9, 300)
    assert trials["00004"].objective is None
    assert trials["00005"].objective is None


def test_the_best_is_the_best_of_those_that_finished(sweep: SweepDir) -> None:
    trials = sweep.trials()
    assert best_of(trials, "max").name == "00001"
    assert best_of(trials, "min").name == "00000"
    early = [trial for trial in trials if trial.state != "finished"]
    assert best_of(early, "max").name == "00002"  # 00003 failed
    assert best_of(trials[3:], "max") is None


def test_the_report_compares_the_trials(sweep: SweepDir) -> None:
    page = write_sweep_report(sweep.path)
    text = page.read_text(encoding="utf-8")
    assert page == sweep.path / "sweep.html"
    rows = re.findall(r"<tr>(.*?)</tr>", text, flags=re.DOTALL)
    first_cells = [re.findall(r"<td>(.*?)</td>", row)[:5] for row in rows[1:7]]
    assert [cells[0] for cells in first_cells] == ["00002", "00001 (best)", "00000", "00003", "00004", "00005"]
    assert first_cells[1][1:4] == ["finished", "0.9", "300"]
    assert "1000 held-out images without labels" in text
    assert "ValueError: &lt;no&gt; luck" in text
    assert "after 100 student steps, which all of them reached" in text
    assert "task: {}" in text
    # Parallel coordinates, importance, one plot a setting, learning curves.
    assert text.count("<svg") == 2 + 3 + 1
    for title in ("Importance of each setting", "Settings and agreement with the teacher", "Learning curves"):
        assert title in text
    assert not re.search(r"https?://", text)


def test_a_sweep_of_two_trials_says_that_importance_needs_more(sweep: SweepDir) -> None:
    for name in ("00002", "00003", "00004", "00005"):
        for path in sorted(sweep.trial_path(name).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        sweep.trial_path(name).rmdir()
    assert "Importance needs 3 measured trials, there are 2" in write_sweep_report(sweep.path).read_text()


def test_copies_of_population_based_training_are_listed(sweep: SweepDir) -> None:
    sweep.update_trial_file("00000", copied=[{"step": 200, "from": "00001", "settings": {LR: 0.012}}])
    text = write_sweep_report(sweep.path).read_text(encoding="utf-8")
    assert re.search(r"<td>00000</td><td>200</td><td>00001</td><td>lr=0.012</td>", re.sub(r"\s*\n\s*", "", text))


def test_a_sweep_without_any_measurement_has_a_report(tmp_path: Path) -> None:
    folder = SweepDir.create(tmp_path / "sweep")
    folder.sweep_path.write_text("")
    folder.update_manifest(state="stopped", num_trials=2, search="grid", scheduler="none", objective={"measured_on": "x"})
    assert "Trials" in write_sweep_report(folder.path).read_text()


def test_folders_that_hold_something_else_are_refused(tmp_path: Path, sweep: SweepDir) -> None:
    with pytest.raises(RunDirError, match="holds a sweep already: continue it with --resume"):
        SweepDir.create(sweep.path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    with pytest.raises(RunDirError, match="holds a run already"):
        SweepDir.create(tmp_path / "run")
    with pytest.raises(RunDirError, match="is not a sweep directory"):
        SweepDir.open(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="cannot be written"):
        SweepDir.create(tmp_path / "file" / "sweep")


def test_a_refused_sweep_leaves_nothing(tmp_path: Path) -> None:
    folder = SweepDir.create(tmp_path / "sweep")
    folder.sweep_path.write_text("")
    folder.update_manifest(state="running")
    folder.remove_unstarted()
    assert not folder.path.exists()


def test_damaged_trial_files_are_read_as_empty(sweep: SweepDir) -> None:
    (sweep.trial_path("00000") / "trial.json").write_text("{")
    assert {trial.name: trial.settings for trial in sweep.trials()}["00000"] == {}
    json.loads((sweep.trial_path("00001") / "trial.json").read_text())


def test_names_are_as_short_as_tells_them_apart() -> None:
    assert short_names(["a.b.lr", "a.b.size"]) == {"a.b.lr": "lr", "a.b.size": "size"}
    assert short_names(["a.one.lr", "a.two.lr"]) == {"a.one.lr": "one.lr", "a.two.lr": "two.lr"}
    assert short_names(["lr", "a.lr"]) == {"lr": "lr", "a.lr": "a.lr"}
    assert settings_text({"a.lr": 0.123456, "a.n": 7, "a.kind": "kl"}) == "lr=0.1235, n=7, kind=kl"
