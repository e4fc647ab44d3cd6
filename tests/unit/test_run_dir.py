"""The run directory's format: what a kill leaves behind is still readable, and mistakes are one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from raydfkd import run_dir
from raydfkd.errors import RunDirError
from raydfkd.run_dir import MetricsWriter, RunDir, write_atomically


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "a" / "run")


def test_create_makes_the_folders_and_leaves_no_probe(run: RunDir) -> None:
    assert sorted(p.name for p in run.path.iterdir()) == ["analysis", "checkpoints", "samples"]


def test_paths_are_as_the_format_says(run: RunDir) -> None:
    names = [p.relative_to(run.path).as_posix() for p in (
        run.config_path, run.manifest_path, run.metrics_path, run.result_path, run.report_path, run.samples, run.analysis,
    )]  # fmt: skip
    assert names == ["config.yaml", "manifest.json", "metrics.jsonl", "result.json", "report.html", "samples", "analysis"]


@pytest.mark.parametrize(
    ("state", "advice"),
    [("running", "continue it with --resume"), ("failed", "continue it with --resume"), ("finished", "choose another --out$")],
)
def test_a_directory_that_holds_a_run_is_refused(run: RunDir, state: str, advice: str) -> None:
    run.update_manifest(state=state)
    with pytest.raises(RunDirError, match=f"holds a {state} run already: .*{advice}"):
        RunDir.create(run.path)


def test_a_directory_without_a_manifest_can_be_started_again(run: RunDir) -> None:
    (run.path / "notes.txt").write_text("mine")
    assert RunDir.create(run.path).path == run.path
    assert (run.path / "notes.txt").read_text() == "mine"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for path in (tmp_path / "taken", tmp_path / "taken" / "run"):
        with pytest.raises(RunDirError, match=r"cannot be written .*: choose another --out"):
            RunDir.create(path)


def test_an_unwritable_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a refused write, since for root no permission bits refuse anything."""

    def refuse(self: Path, *args: object, **options: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(RunDirError, match=r"cannot be written \(Permission denied\): choose another --out"):
        RunDir.create(tmp_path / "run")


@pytest.mark.parametrize("opener", [RunDir.create, RunDir.open])
def test_a_directory_that_may_not_be_looked_into_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opener) -> None:
    def refuse(self: Path, **options: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(RunDirError, match="Permission denied"):
        opener(tmp_path / "run")


def test_open_wants_a_started_run(run: RunDir, tmp_path: Path) -> None:
    for path in (run.path, tmp_path / "nowhere"):
        with pytest.raises(RunDirError, match="is not a run directory"):
            RunDir.open(path)
    run.update_manifest(state="running")
    assert RunDir.open(str(run.path)).manifest() == {"state": "running"}


def test_the_manifest_merges_and_takes_numpy_and_paths(run: RunDir) -> None:
    run.update_manifest(state="running", seed=np.int64(3), where=Path("x/y"))
    run.update_manifest(state="failed", counts=np.array([1, 2]))
    assert run.manifest() == {"state": "failed", "seed": 3, "where": "x/y", "counts": [1, 2]}


def test_what_json_cannot_hold_is_our_bug_and_leaves_the_old_file(run: RunDir) -> None:
    run.update_manifest(state="running")
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        run.update_manifest(bad=object())
    assert run.manifest() == {"state": "running"}


@pytest.mark.parametrize(("text", "told"), [("{", "cannot be read"), ("[1]", "does not hold a JSON object")])
def test_a_damaged_manifest_is_told(run: RunDir, text: str, told: str) -> None:
    run.manifest_path.write_text(text)
    with pytest.raises(RunDirError, match=told):
        run.manifest()


def test_the_result_is_there_once_it_was_written(run: RunDir) -> None:
    with pytest.raises(RunDirError, match="the run has not finished"):
        run.result()
    run.write_result({"metric": np.float32(0.5)})
    assert run.result() == {"metric": 0.5}


def test_a_write_that_breaks_off_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def killed(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new" * 1000)
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_atomically(path, "newer")
    assert path.read_text() == "newer"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_atomic_writes_keep_any_text(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "größer\n")
    assert (tmp_path / "a").read_bytes() == "größer\n".encode()


def test_records_come_back_in_order_and_by_kind(run: RunDir) -> None:
    assert list(run.metrics()) == []
    writer = MetricsWriter(run)
    written = [writer.write("replay", 1, class_counts=np.array([1, 2])), writer.write("event", 2, message="Grüße\nzwei")]
    writer.write("replay", 3, size=np.int32(4))
    writer.close()
    assert [r["step"] for r in run.metrics()] == [1, 2, 3]
    assert [r["step"] for r in run.metrics("replay")] == [1, 3]
    assert next(run.metrics("event"))["message"] == "Grüße\nzwei"
    assert next(run.metrics())["class_counts"] == [1, 2]
    assert written[0]["kind"] == "replay"


def test_each_record_is_readable_at_once(run: RunDir) -> None:
    writer = MetricsWriter(run)
    writer.write("event", 0, message="a")
    assert len(list(run.metrics())) == 1
    writer.close()


@pytest.mark.parametrize("torn", ['{"kind": "event", "st', '{"kind": "event", "step": 9, "message": "whole"}', "{"])
def test_a_torn_last_line_is_left_out_and_then_overwritten(run: RunDir, torn: str) -> None:
    writer = MetricsWriter(run)
    writer.write("event", 1, message="a")
    writer.close()
    with run.metrics_path.open("a") as file:
        file.write(torn)
    assert [r["step"] for r in run.metrics()] == [1]
    writer = MetricsWriter(run)
    writer.write("event", 2, message="b")
    writer.close()
    assert [r["step"] for r in run.metrics()] == [1, 2]
    assert all(json.loads(line) for line in run.metrics_path.read_text().splitlines())


def test_a_file_of_one_torn_line_becomes_empty(run: RunDir) -> None:
    run.metrics_path.write_text('{"kind"')
    MetricsWriter(run).close()
    assert run.metrics_path.read_text() == ""


def test_time_goes_on_over_sessions_and_late_records_keep_theirs(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(run_dir.time, "monotonic", lambda: clock[0])
    writer = MetricsWriter(run, elapsed_s=50.0)
    clock[0] += 2.5
    assert writer.elapsed_s == pytest.approx(52.5)
    assert writer.write("event", 0)["time_s"] == pytest.approx(52.5)
    assert writer.write("event", 0, late_s=1.5)["time_s"] == pytest.approx(51.0)
    writer.close()


def test_only_a_committed_checkpoint_counts_and_the_last_two_stay(run: RunDir) -> None:
    assert run.latest_checkpoint() is None
    for step in (10, 20, 30):
        folder = run.checkpoints / f"step-{step:08d}"
        folder.mkdir()
        (folder / "x").write_text("x")
        run.commit_checkpoint(folder)
        assert run.latest_checkpoint() == folder
    (run.checkpoints / "step-00000040").mkdir()
    assert run.latest_checkpoint() == run.checkpoints / "step-00000030"
    assert sorted(p.name for p in run.checkpoints.glob("step-*")) == ["step-00000020", "step-00000030", "step-00000040"]


def test_a_removed_checkpoint_gives_way_to_the_one_before_but_not_to_an_unfinished_one(run: RunDir) -> None:
    """A damaged checkpoint's message advises to remove its folder."""
    for step in (10, 20):
        (run.checkpoints / f"step-{step:08d}").mkdir()
        run.commit_checkpoint(run.checkpoints / f"step-{step:08d}")
    (run.checkpoints / "step-00000030").mkdir()  # being written
    (run.checkpoints / "step-00000020").rmdir()
    assert run.latest_checkpoint() == run.checkpoints / "step-00000010"
    (run.checkpoints / "step-00000010").rmdir()
    assert run.latest_checkpoint() is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_as_many_checkpoints_stay_as_asked(run: RunDir, keep: int) -> None:
    for step in range(5):
        folder = run.checkpoints / f"step-{step:08d}"
        folder.mkdir()
        run.commit_checkpoint(folder, keep=keep)
    assert sorted(p.name for p in run.checkpoints.glob("step-*")) == [f"step-{step:08d}" for step in range(5 - keep, 5)]
