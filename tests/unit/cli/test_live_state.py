"""How a run stands: from its directory alone, and with what its generator pool answers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from raydfkd.cli.live_state import RunStatus
from raydfkd.errors import RunDirError
from raydfkd.ownership import Owner
from raydfkd.run_dir import RunDir

CONFIG = "schedule: {rounds: 25, student_steps_per_round: 4}\n"


def record(kind: str, time_s: float, step: int, **values: Any) -> str:
    return json.dumps({"kind": kind, "time_s": time_s, "step": step, **values}) + "\n"


COUNTS = {"target": 4, "running": 1, "starting": 1, "pending": 2, "draining": 0}
GENERATORS = [
    {"name": "inversion-0", "state": "running", "pid": 12, "restarts": 1},
    {"name": "inversion-10", "state": "starting", "pid": None, "restarts": 0},
]
RECORDS = [
    record("synthesis", 1.0, 0, generator_id="inversion-0", num_images=32, seconds=0.5, loss=1.0),
    record("synthesis", 3.0, 0, generator_id="inversion-2", num_images=32, seconds=0.5, loss=1.0),
    record("throughput", 10.0, 0, images_distilled=0, distilled_per_s=0.0),
    record("throughput", 20.0, 40, images_distilled=1280, distilled_per_s=128.0, student_wait_limiter_s=2.5),
    record("replay", 20.0, 40, size=50, capacity=200, fill=0.25, class_entropy=0.75),
    record("evaluation", 20.0, 40, metric_last=0.5, metric_ema=0.6),
    record("generators", 20.5, 40, source="inversion", **COUNTS, generators=GENERATORS),
    record("event", 21.0, 40, message="generator inversion-0 died and was restarted from its initial state", restart=True),
]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path / "run")
    made.config_path.write_text(CONFIG)
    made.update_manifest(state="running")
    made.metrics_path.write_text("".join(RECORDS))
    return made


def test_everything_stands_in_the_json(run: RunDir) -> None:
    status = RunStatus(run)
    status.refresh()
    told = json.loads(json.dumps(status.as_json()))
    assert told["run"] == str(run.path)
    assert (told["state"], told["error"], told["note"]) == ("running", None, None)
    assert (told["step"], told["total_steps"], told["time_s"]) == (40, 100, 21.0)
    assert (told["images_synthesized"], told["images_synthesized_per_s"]) == (64, 16.0)
    assert (told["images_distilled"], told["images_distilled_per_s"]) == (1280, 128.0)
    assert (told["buffer_images"], told["buffer_capacity"], told["buffer_fill"]) == (50, 200, 0.25)
    assert told["class_entropy"] == 0.75
    assert told["wait_shares"]["student_wait_limiter"] == 0.25
    assert (told["restarts"], told["metric_last"], told["metric_ema"]) == (1, 0.5, 0.6)
    assert told["sources"] == {"inversion": COUNTS}
    assert [(g["name"], g["state"], g["pid"], g["images_synthesized"], g["restarts"]) for g in told["generators"]] == [
        ("inversion-0", "running", 12, 32, 1),
        ("inversion-2", "ended", None, 32, 0),
        ("inversion-10", "starting", None, 0, 0),
    ]


def test_what_was_written_since_is_read_and_a_torn_line_waits(run: RunDir) -> None:
    status = RunStatus(run)
    status.refresh()
    line = record("synthesis", 22.0, 44, generator_id="inversion-0", num_images=32, seconds=0.5)
    with run.metrics_path.open("a") as file:
        file.write(line[:20])
    status.refresh()
    assert status.as_json()["images_synthesized"] == 64
    with run.metrics_path.open("a") as file:
        file.write(line[20:])
    status.refresh()
    status.refresh()
    assert status.as_json()["images_synthesized"] == 96
    assert status.as_json()["step"] == 44


def test_a_damaged_line_is_one_sentence(run: RunDir) -> None:
    with run.metrics_path.open("a") as file:
        file.write("{not json}\n")
    with pytest.raises(
        RunDirError, match=rf"metrics.jsonl, line {len(RECORDS) + 1} is not a metrics record \(.*\): .* delete that line$"
    ):
        RunStatus(run).refresh()


def test_a_resumed_run_took_records_back(run: RunDir) -> None:
    status = RunStatus(run)
    status.refresh()
    run.metrics_path.write_text(RECORDS[0])
    status.refresh()
    assert (status.as_json()["images_synthesized"], status.as_json()["step"]) == (32, 0)


def test_the_generators_of_a_run_that_is_over_have_ended(run: RunDir) -> None:
    run.update_manifest(state="finished")
    status = RunStatus(run)
    status.refresh()
    assert {(g["state"], g["pid"]) for g in status.generators()} == {("ended", None)}
    assert status.as_json()["sources"] == {}


def test_of_a_resumed_runs_generators_nothing_is_known_until_they_start(run: RunDir) -> None:
    with run.metrics_path.open("a") as file:
        file.write(record("event", 22.0, 0, message="resumed from step-00000040"))
    status = RunStatus(run)
    status.refresh()
    assert status.sources() == {}
    assert all(g["pid"] is None for g in status.generators())


def test_a_local_runs_generators_run_while_it_does(run: RunDir) -> None:
    run.metrics_path.write_text("".join(RECORDS[:4]))
    status = RunStatus(run)
    status.refresh()
    assert [(g["name"], g["state"]) for g in status.generators()] == [("inversion-0", "running"), ("inversion-2", "running")]


def test_a_live_run_that_has_fallen_silent_is_noted(run: RunDir) -> None:
    written_at = run.metrics_path.stat().st_mtime
    status = RunStatus(run, clock=lambda: written_at + 59)
    status.refresh()
    assert status.as_json()["note"] is None
    silent = RunStatus(run, clock=lambda: written_at + 75)
    silent.refresh()
    assert silent.note == (
        f"nothing was recorded for 75 s: if its process is gone, continue with raydfkd run {run.path} --resume"
    )
    assert dict(silent.rows())["note"] == silent.note
    run.update_manifest(state="finished")
    silent.refresh()
    assert silent.note is None


def test_a_run_whose_process_has_died_is_noted_at_once(run: RunDir) -> None:
    dead = replace(Owner.this_process(), process=2**22 + 1)
    (run.path / ".owner-1").write_text(json.dumps(asdict(dead)))
    status = RunStatus(run)
    status.refresh()
    assert status.note == (
        f"process {dead.process} on host {dead.host} has died: continue with raydfkd run {run.path} --resume"
    )


def test_the_table_says_how_many_run_and_which_wait(run: RunDir) -> None:
    status = RunStatus(run)
    status.refresh()
    rows = dict(status.rows())
    assert rows["state"] == "running"
    assert "step 40/100 (40%)" in rows["student"]
    assert rows["images"] == "64 synthesized, 1,280 distilled"
    assert rows["class entropy"] == "75.0%"
    assert rows["generators of inversion"] == "1 of 4 running, 1 starting, 2 pending"
    assert rows["last event"].startswith("generator inversion-0 died")
    assert "note" not in rows
    assert status.generator_rows()[0] == ("inversion-0", "running", "12", "32", "0.5", "1")


def test_a_failed_run_says_why(run: RunDir) -> None:
    run.update_manifest(state="failed", error="the teacher is gone")
    status = RunStatus(run)
    status.refresh()
    assert dict(status.rows())["state"] == "failed: the teacher is gone"


def test_a_run_that_has_only_begun_has_a_table_too(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.update_manifest(state="running")
    status = RunStatus(run)
    status.refresh()
    told = status.as_json()
    assert (told["step"], told["total_steps"], told["buffer_fill"], told["generators"]) == (0, None, None, [])
    assert dict(status.rows())["images"] == "0 synthesized, 0 distilled"


def test_a_straggler_is_named(run: RunDir) -> None:
    def batch(name: str, time_s: float, seconds: float) -> str:
        return record("synthesis", time_s, 40, generator_id=name, num_images=32, seconds=seconds)

    names = ["inversion-0", "inversion-1", "inversion-2"]
    live = {"target": 3, "running": 3, "starting": 0, "pending": 0, "draining": 0}
    listing = [{"name": name, "state": "running", "pid": 1, "restarts": 0} for name in names]
    with run.metrics_path.open("a") as file:
        file.write(record("generators", 22.0, 40, source="inversion", **live, generators=listing))
        for time_s in range(23, 29):
            file.writelines([batch(names[0], time_s, 0.5), batch(names[1], time_s, 0.6)])
        file.write(batch(names[2], 30.0, 4.5))
    status = RunStatus(run)
    status.refresh()
    told = {g["name"]: (g["batch_s"], g["silent_s"]) for g in status.as_json()["generators"]}
    assert told["inversion-0"] == (0.5, 2.0)
    assert told["inversion-2"] == ((0.5 + 4.5) / 2, 0.0)
    assert status.as_json()["note"] == "generator inversion-2 takes 2.5 s per batch, the others of inversion take 0.55 s"
    assert ("note", status.as_json()["note"]) in status.rows()
