"""An orderly stop: who is asked, and for whom the run does not wait."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from pool_rig import LATER, FakeActor, get
from ray.exceptions import ActorUnavailableError

from raydfkd.pipeline.run import stop_signals
from raydfkd.runtime.students import stopping
from raydfkd.runtime.students.stopping import StopAsker, StopWatch, is_stopping

TIMEOUT_S = 60.0


class Run(FakeActor):
    """Log, replay and pool in one."""

    def __init__(self) -> None:
        self.asked: Any = False
        self.told: Any = (False, 0)
        self.kept = 0

    def do_stopping(self) -> Any:
        return self.asked

    def do_ends_before(self, student: str, number: int) -> Any:
        return self.asked

    def do_progress(self) -> Any:
        return lambda: self.told

    def do_keep_preparation(self) -> Any:
        self.kept += 1
        return lambda: None


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(ray, "get", get)
    return Run()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    times = [1000.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: times[0])
    return times


def watch(run: Run) -> StopWatch:
    return StopWatch({"coordinator": run, "replay": run, "pool": run}, TIMEOUT_S)


def test_a_run_that_nobody_stops_goes_on(run: Run, now: list[float]) -> None:
    stop = watch(run)
    for _ in range(5):
        now[0] += 100
        assert not stop.is_overdue()
    assert not stop.asked


def test_a_student_that_has_drawn_nothing_is_not_waited_for(run: Run, now: list[float]) -> None:
    stop = watch(run)
    run.asked = True
    assert stop.is_overdue()


def test_one_that_moves_is_waited_for_and_one_that_stands_still_not_for_ever(run: Run, now: list[float]) -> None:
    stop = watch(run)
    run.asked, run.told = True, (True, 5)
    assert not stop.is_overdue()
    now[0] += 50
    run.told = (True, 6)
    assert not stop.is_overdue()
    now[0] += 50
    assert not stop.is_overdue()
    now[0] += 11
    assert stop.is_overdue()


def test_a_replay_actor_that_does_not_answer_is_waited_for_as_long(run: Run, now: list[float]) -> None:
    stop = watch(run)
    run.asked, run.told = True, LATER
    assert not stop.is_overdue()
    now[0] += 61
    assert stop.is_overdue()


def test_a_worker_asks_the_log_and_goes_on_while_it_is_away(run: Run) -> None:
    asker = StopAsker(run, 0, 1, "small")
    assert asker(0) is False
    run.asked = lambda: ActorUnavailableError("restarting", None)
    assert asker(1) is False
    run.asked = True
    assert asker(2) is True
    assert StopAsker(run, 1, 1, "small")(2) is False, "only the first worker asks"
    assert is_stopping(run) is True


def test_what_generators_learnt_is_kept(run: Run) -> None:
    watch(run).keep_preparation()
    assert run.kept == 1


def test_a_signal_is_passed_on_and_actors_that_it_ended_are_not_waited_for(
    run: Run, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_on: list[str] = []
    run.do_request_stop = lambda: passed_on.append("asked")  # type: ignore[attr-defined]
    monkeypatch.setattr(stop_signals, "requested", lambda: True)
    stop = watch(run)
    run.asked, run.told = LATER, LATER
    assert not stop.is_overdue()
    assert passed_on == ["asked"]
    assert stop.asked
    now[0] += 7
    assert stop.is_overdue()
    assert stop.is_ray_gone
