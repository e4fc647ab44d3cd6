"""The run's clock: what is published, reported, evaluated and saved, when, and by whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydfkd.distillation.distiller import StepOutput
from raydfkd.errors import RunFailedError
from raydfkd.evaluation.accuracy import Evaluator
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.run.student_loop import Batch, LoopHooks, StepClock, StudentLoop, normalized, resident_bytes
from raydfkd.seeds import derive_seed


def experiment(**runtime: Any) -> ExperimentConfig:
    return build_experiment(
        {
            "task": {"num_classes": 2, "image_shape": [1, 4, 4]},
            "teacher": {"model": "x"},
            "sources": {"a": {"method": "fast", "batch_size": 4}},
            "replay": {"synthetic": {"capacity": 8}},
            "students": {"s": {"model": "x", "batch_size": 4}},
            "schedule": {"rounds": 4, "student_steps_per_round": 3},
            "evaluation": {"dataset": {"kind": "digits"}, "period_steps": 5},
            "runtime": {"log_period_steps": 4, "checkpoint_period_rounds": 2, **runtime},
        }
    )


class FakeDistiller:
    """Counts steps and gives the step's number for every figure."""

    def __init__(self, log: list[tuple[Any, ...]], num_steps: int = 0) -> None:
        self.log, self.num_steps = log, num_steps
        self.device, self.notes = torch.device("cpu"), ["the step is not one graph"]
        self.student = nn.Linear(1, 1)
        with torch.no_grad():
            self.student.weight.fill_(num_steps)

    def reseed(self, seed: int) -> None:
        self.log.append(("reseed", seed))

    def step(self, images: Tensor, weights: Tensor) -> StepOutput:
        self.num_steps += 1
        with torch.no_grad():
            self.student.weight.fill_(self.num_steps)
        figure = torch.tensor(float(self.num_steps))
        return StepOutput(figure, weights * self.num_steps, figure / 100, figure * 2, lr=self.num_steps / 10)


class DivergingDistiller(FakeDistiller):
    """Its loss is no number from step 5 on."""

    def step(self, images: Tensor, weights: Tensor) -> StepOutput:
        output = super().step(images, weights)
        return replace(output, loss=output.loss * (float("nan") if self.num_steps >= 5 else 1))


class FakeSource:
    def __init__(self, log: list[tuple[Any, ...]]) -> None:
        self.log = log

    def next(self, step: int, version: int) -> Batch:
        self.log.append(("next", step, version))
        return Batch(torch.zeros(4, 1, 4, 4), torch.full((4,), 0.5), np.arange(4) + step, np.full(4, step, np.int32))

    def report(self, keys: np.ndarray, priorities: Tensor) -> None:
        self.log.append(("report", keys.tolist(), priorities.tolist()))

    def publish(self, weights: np.ndarray, version: int) -> None:
        self.log.append(("publish", version, float(weights[0])))

    def flush(self) -> None:
        self.log.append(("flush",))

    def take_waits(self) -> dict[str, float]:
        return {"student_wait_data_s": 0.25}


class Loop(StudentLoop):
    def evaluate(self, evaluator: Evaluator) -> dict[str, Any]:
        return {"metric_last": 0.5}


def run(
    rank: int = 0,
    num_steps: int = 0,
    evaluates: bool = True,
    stop_after: int = 99,
    kind: type[FakeDistiller] = FakeDistiller,
    log: list[tuple[Any, ...]] | None = None,
    **runtime: Any,
) -> list[tuple[Any, ...]]:
    """``stop_after``: rounds that may begin before a stop is asked for."""
    log = [] if log is None else log
    answers = iter([*[False] * stop_after, True])
    hooks = LoopHooks(
        lambda kind, step, **values: log.append(("emit", kind, step, values)),
        lambda step: log.append(("save", step)),
        lambda number: next(answers),
    )
    evaluator: Any = object() if evaluates and rank == 0 else None
    distiller: Any = kind(log, num_steps)
    Loop(experiment(**runtime), distiller, FakeSource(log), hooks, evaluator, rank).run()
    return log


def only(log: list[tuple[Any, ...]], kind: str) -> list[tuple[Any, ...]]:
    return [entry[1:] for entry in log if entry[0] == kind]


def emitted(log: list[tuple[Any, ...]], kind: str) -> list[int]:
    return [entry[1] for entry in only(log, "emit") if entry[0] == kind]


def test_every_step_gets_its_version_and_reports_its_findings() -> None:
    log = run()
    assert only(log, "next") == [(step, step // 3) for step in range(12)]
    assert only(log, "report")[4] == ([4, 5, 6, 7], [2.5] * 4)
    kinds = [entry[0] for entry in log if entry[0] in ("next", "report")]
    assert kinds == ["next", "report"] * 12


def test_each_rounds_weights_are_published_before_its_first_batch() -> None:
    log = run()
    assert only(log, "publish") == [(0, 0.0), (1, 3.0), (2, 6.0), (3, 9.0)]
    for version in range(4):
        assert log.index(("publish", version, version * 3.0)) < log.index(("next", version * 3, version))


def test_checkpoints_stand_at_rounds_beginnings_and_at_the_end_with_all_priorities_handed_over() -> None:
    log = run()
    assert only(log, "save") == [(6,), (12,)]
    places = [place for place, entry in enumerate(log) if entry[0] == "save"]
    assert all(log[place - 1] == ("flush",) for place in places)
    assert places[0] < log.index(("publish", 2, 6.0)), "before the round begins"


def test_a_restored_loop_goes_on_from_its_step_and_does_not_save_it_again() -> None:
    log = run(num_steps=6)
    assert only(log, "next")[0] == (6, 2)
    assert only(log, "publish")[0] == (2, 6.0)
    assert only(log, "save") == [(12,)]
    assert only(log, "reseed") == only(run(), "reseed")[2:]


def test_a_stop_ends_the_loop_at_the_next_rounds_beginning_with_a_checkpoint() -> None:
    log = run(stop_after=3)
    assert only(log, "next")[-1] == (8, 2)
    assert only(log, "save") == [(6,), (9,)]
    assert log[-2:] == [("flush",), ("save", 9)]
    assert only(log, "publish")[-1] == (2, 6.0), "no round begins after it"


def test_a_stop_before_anything_was_done_saves_nothing() -> None:
    assert run(stop_after=0) == []
    assert run(num_steps=6, stop_after=0) == []


def test_a_loop_restored_at_its_end_does_nothing() -> None:
    assert run(num_steps=12) == []


def test_augmentation_is_seeded_by_round_and_rank() -> None:
    seeds = [seed for (seed,) in only(run(), "reseed")]
    assert seeds == [derive_seed(0, "augmentation", "s", 0, version) for version in range(4)]
    assert len({*seeds, *(seed for (seed,) in only(run(rank=1), "reseed"))}) == 8


def test_means_are_reported_each_period_and_at_the_end() -> None:
    log = run()
    assert emitted(log, "distillation") == emitted(log, "throughput") == [4, 8, 12]
    means = next(entry[2] for entry in only(log, "emit") if entry[:2] == ("distillation", 8))
    assert means["kd_loss"] == pytest.approx((5 + 6 + 7 + 8) / 4)
    assert means["agreement"] == pytest.approx(0.065)
    assert means["grad_norm"] == pytest.approx(13)
    assert means["lr"] == 0.8
    assert means["importance_weight_mean"] == 0.5
    assert means["item_age"] == pytest.approx(5.5)
    assert means["step_s"] >= 0
    assert "num_steps" not in means
    flow = next(entry[2] for entry in only(log, "emit") if entry[:2] == ("throughput", 8))
    assert (flow["images_distilled"], flow["student_wait_data_s"]) == (32, 0.25)
    assert flow["distilled_per_s"] > 0


def test_the_distillers_notes_are_events_told_once() -> None:
    log = run()
    told = [entry[1:] for entry in only(log, "emit") if entry[1] == "event" or entry[0] == "event"]
    assert told == [(4, {"message": "the step is not one graph"})]


def test_a_clock_sums_the_steps_since_it_was_last_read(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.5, 3.0, 5.0, 7.0, 8.0])
    monkeypatch.setattr("raydfkd.pipeline.run.student_loop.time.monotonic", lambda: next(times))
    clock = StepClock(torch.device("cpu"))
    for _ in range(2):
        clock.begin()
        clock.end()
    assert clock.take() == 2.5
    clock.begin()
    clock.end()
    assert clock.take() == 1.0
    assert clock.take() == 0


def test_the_last_record_covers_what_is_left() -> None:
    log = run(log_period_steps=5)
    assert emitted(log, "distillation") == [5, 10, 12]
    means = next(entry[2] for entry in only(log, "emit") if entry[:2] == ("distillation", 12))
    assert means["kd_loss"] == pytest.approx(11.5)


def test_a_student_that_diverged_ends_the_run_and_is_not_saved() -> None:
    log: list[tuple[Any, ...]] = []
    with pytest.raises(RunFailedError, match=r"student 's' diverged by step 6 \(loss nan\): lower students\.s\.optimizer\.lr"):
        run(kind=DivergingDistiller, log=log, log_period_steps=3, checkpoint_period_rounds=1)
    assert emitted(log, "distillation") == [3]
    assert max((step for (step,) in only(log, "save")), default=0) < 5


def test_evaluation_is_each_period_and_at_the_end_and_only_where_there_is_an_evaluator() -> None:
    assert emitted(run(), "evaluation") == [5, 10, 12]
    assert emitted(run(evaluates=False), "evaluation") == []


def test_other_workers_only_train_and_hand_over() -> None:
    log = run(rank=1)
    assert [only(log, kind) for kind in ("publish", "save", "emit")] == [[], [], []]
    assert len(only(log, "flush")) == 2, "all workers hand over before rank 0 saves"
    assert len(only(log, "next")) == 12


def test_a_student_is_evaluated_with_its_teachers_normalization() -> None:
    class Teacher:
        normalization = nn.Hardtanh(0.0, 0.25)

    student = nn.Flatten()
    teacher: Any = Teacher()
    assert normalized(teacher, student)(torch.full((1, 1, 1, 1), 0.75)).item() == 0.25


def test_resident_memory_is_that_of_a_process_with_torch() -> None:
    assert 50e6 < resident_bytes() < 50e9
