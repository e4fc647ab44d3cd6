"""The step as a CUDA graph holds it, run without one: from inputs that stay in their places it is the plain step, exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_distillation import drawn, make

from raydfkd.distillation.distiller import Distiller
from raydfkd.distillation.recorded_step import NotRecordableError, RecordedStep


def unrecorded(distiller: Distiller) -> Distiller:
    distiller._recorded = RecordedStep(distiller._update, torch.device("cpu"), record=False)
    return distiller


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_padding": 2, "flip": True},
        {"ema_decay": 0.3, "optimizer": {"nesterov": True, "max_grad_norm": 0.05}},
        {"accumulation_steps": 2, "crop_padding": 1},
        {"augmentation": {"level": "standard", "mixup": "batch"}},
        {"objective": {"kind": "dkd", "warmup_fraction": 0.3}},
        {"optimizer": {"schedule": "one_cycle", "warmup_steps": 3}},
    ],
)
def test_the_static_inputs_are_all_that_a_step_reads(settings: dict[str, Any]) -> None:
    plain, static = (make(norm=True, total_steps=8, **settings) for _ in range(2))
    unrecorded(static)
    for distiller in (plain, static):
        distiller.reseed(4)
    for number in range(6):
        expected, found = plain.step(*drawn(number)), static.step(*drawn(number))
        assert torch.equal(found.priorities_B, expected.priorities_B)
        for name in ("loss", "agreement", "grad_norm"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
        assert found.lr == expected.lr
    for network in ("student", "student_ema"):
        states = [getattr(distiller, network).state_dict().values() for distiller in (plain, static)]
        assert all(torch.equal(one, other) for one, other in zip(*states, strict=True)), network


def test_outputs_of_a_step_are_not_overwritten_by_the_next() -> None:
    distiller = unrecorded(make())
    first = distiller.step(*drawn(0))
    kept = first.priorities_B.clone()
    distiller.step(*drawn(1))
    assert torch.equal(first.priorities_B, kept)


def test_a_batch_of_another_size_and_one_that_cannot_be_recorded_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, static = make(), unrecorded(make())
    for images, weights in (drawn(0), drawn(1, num=8), drawn(2)):
        expected, found = plain.step(images, weights), static.step(images, weights)
        assert torch.equal(found.priorities_B, expected.priorities_B)

    def refuse(*inputs: object) -> None:
        raise NotRecordableError("an operation waits for the host")

    monkeypatch.setattr(static, "_recorded", type("Refusing", (), {"fits": lambda self, *inputs: True, "__call__": refuse})())
    assert torch.equal(static.step(*drawn(3)).priorities_B, plain.step(*drawn(3)).priorities_B)
    assert static.notes == ["the student's step is not one CUDA graph: it cannot be recorded (an operation waits for the host)"]
    static.step(*drawn(4))
    assert len(static.notes) == 1


def test_workers_that_share_a_batch_are_not_recorded_and_a_cpu_needs_no_note() -> None:
    distiller = unrecorded(make())
    distiller.wrap_learner(lambda learner: learner)
    assert distiller.notes == ["the student's step is not one CUDA graph: its workers exchange gradients in it"]
    plain = make()
    plain.wrap_learner(lambda learner: learner)
    assert plain.notes == []
