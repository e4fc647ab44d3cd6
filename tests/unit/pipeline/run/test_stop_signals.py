"""SIGTERM and SIGHUP: a run ends at its next round with everything saved, other work is interrupted, a second ends at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tiny_run import At, experiment

from raydfkd.api import distill
from raydfkd.errors import RunStoppedError
from raydfkd.pipeline.run import stop_signals
from raydfkd.pipeline.run.stop_signals import StopSignal, deferred, install
from raydfkd.run_dir import RunDir

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    monkeypatch.setattr(stop_signals, "_received", stop_signals._Received())
    monkeypatch.setattr("raydfkd.report.html.write_report", lambda path: path / "report.html")
    install()
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def receive(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def at(kind: str, step: int) -> Callable[[dict[str, Any]], bool]:
    return lambda record: record["kind"] == kind and record["step"] == step


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_ends_at_its_next_round_and_is_resumed_as_if_it_had_not(
    handled: None, teacher: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = ["schedule.rounds=4", "runtime.checkpoint_period_rounds=100"]
    unbroken = distill(experiment(teacher), overrides=rounds, out=tmp_path / "unbroken")
    with pytest.raises(RunStoppedError, match=r"was stopped at step 8 of 16; resume it with: raydfkd run \S+/run --resume"):
        distill(experiment(teacher), overrides=rounds, out=tmp_path / "run",
                watcher=At(at("distillation", 8), lambda: receive(number)))  # fmt: skip
    run = RunDir(tmp_path / "run")
    assert (run.manifest()["state"], run.manifest()["error"]) == ("stopped", None)
    monkeypatch.setattr(stop_signals, "_received", stop_signals._Received())
    resumed = distill(run.config_path, out=run.path, resume=True)
    one, other = load_file(unbroken.weights()), load_file(resumed.weights())
    assert all(one[name].equal(other[name]) for name in one)


def test_a_run_that_has_drawn_nothing_does_not_end_its_warm_up_first(handled: None, teacher: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    watcher = At(at("synthesis", 0), receive)
    with pytest.raises(StopSignal, match="SIGTERM"):
        distill(experiment(teacher), overrides=["schedule.warmup_batches=50"], out=tmp_path / "run", watcher=watcher)
    seen = [record["kind"] for record in RunDir(tmp_path / "run").metrics()]
    assert seen.count("synthesis") == 1
    assert RunDir(tmp_path / "run").manifest()["state"] == "stopped"


def test_work_that_does_not_defer_it_is_interrupted(handled: None) -> None:
    with pytest.raises(KeyboardInterrupt, match="SIGTERM") as caught:
        receive()
    assert caught.value.exit_code == 3
    assert stop_signals.requested()


def test_work_that_defers_it_says_what_it_does(handled: None) -> None:
    told: list[str] = []
    with deferred(lambda: told.append("outer")):
        with deferred(lambda: told.append("inner")):
            pass
        receive()
    assert told == ["outer"]
    with pytest.raises(StopSignal, match="SIGTERM"):
        stop_signals.interrupt_if_requested()


def test_a_second_signal_ends_the_process_at_once(handled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with deferred():
        receive()
        assert codes == []
        receive()
    assert codes == [143]


def test_what_nohup_ignores_stays_ignored(handled: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    install()
    receive(signal.SIGHUP)
    assert not stop_signals.requested()


def test_a_signal_while_the_report_is_written_names_the_command_that_writes_it(
    handled: None, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydfkd.report.html.write_report", lambda path: receive())
    with pytest.raises(StopSignal) as caught:
        distill(experiment(teacher), out=tmp_path / "run")
    assert caught.value.__notes__ == [f"the run is finished; write its report with: raydfkd report {tmp_path / 'run'}"]
    assert RunDir(tmp_path / "run").manifest()["state"] == "finished"
