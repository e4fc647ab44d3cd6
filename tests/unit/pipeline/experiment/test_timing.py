"""Times of work on a machine that others use too."""

from __future__ import annotations

import pytest
import torch

from raydfkd.pipeline.experiment import timing
from raydfkd.pipeline.experiment.timing import MOST_TIMES, Timing


class Clocks:
    """Of a machine on which each piece of work takes as long as told, on the wall and of the processor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s = self.processor_s = self.others_s = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.wall_s)
        monkeypatch.setattr(timing.time, "monotonic", lambda: self.wall_s)
        monkeypatch.setattr(timing.time, "process_time", lambda: self.processor_s)
        monkeypatch.setattr(timing, "_busy_s", lambda: self.others_s + self.processor_s)
        monkeypatch.setattr(timing, "available_cpus", lambda: 2)

    def work(self, wall_s: float, processor_s: float, others_s: float = 0.0) -> None:
        self.wall_s, self.processor_s, self.others_s = (
            self.wall_s + wall_s, self.processor_s + processor_s, self.others_s + others_s,
        )  # fmt: skip


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_the_quickest_of_several_counts(clocks: Clocks) -> None:
    took = [0.2, 0.1, 0.3, 0.2, 0.2, 9.0]
    left = list(took)

    def work() -> None:
        seconds = left.pop(0)
        clocks.work(seconds, 2 * seconds)

    measured = Timing(torch.device("cpu"))
    assert measured.seconds(work) == pytest.approx(0.1)
    assert len(took) - len(left) == MOST_TIMES
    assert measured.warning() is None


def test_long_work_is_done_once(clocks: Clocks) -> None:
    calls = []
    assert Timing(torch.device("cpu")).seconds(lambda: (calls.append(1), clocks.work(3.0, 5.0))) == pytest.approx(3.0)
    assert len(calls) == 1


def test_waiting_for_the_processor_does_not_count_and_is_told(clocks: Clocks) -> None:
    measured = Timing(torch.device("cpu"))
    assert measured.seconds(lambda: clocks.work(8.0, 1.0, others_s=12.0)) == pytest.approx(1.0)
    assert measured.warning() == (
        "other processes keep about 1.5 of 2 CPUs busy: a run takes longer than these times while they do"
    )
