"""The learning rate at its corners, and settings of student and optimizer that are refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from raydfkd.distillation.config import OptimizerConfig, StudentConfig
from raydfkd.distillation.schedule import learning_rate


def rates(total: int, **settings: object) -> list[float]:
    config = OptimizerConfig.model_validate(settings)
    return [learning_rate(config, step, total) for step in range(total)]


def test_cosine_goes_from_the_peak_to_the_final_rate_at_the_last_step() -> None:
    found = rates(101, lr=0.2, final_lr=2e-4)
    assert found[0] == 0.2
    assert found[50] == pytest.approx((0.2 + 2e-4) / 2)
    assert found[-1] == pytest.approx(2e-4)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_a_warmup_starts_at_a_25th_and_reaches_the_peak(schedule: str) -> None:
    found = rates(50, lr=0.5, schedule=schedule, warmup_steps=10, final_lr=0.01)
    assert found[0] == pytest.approx(0.5 / 25)
    assert found[5] == pytest.approx((0.02 + 0.5) / 2)
    assert found[10] == 0.5 == max(found)
    assert found[:11] == sorted(found[:11])
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[-1] == pytest.approx(0.01)


def test_constant_stays_after_its_warmup() -> None:
    assert rates(4, lr=0.3, schedule="constant") == [0.3] * 4
    assert rates(4, lr=0.5, schedule="constant", warmup_steps=2) == pytest.approx([0.02, 0.26, 0.5, 0.5])


def test_a_step_past_the_end_keeps_the_final_rate() -> None:
    config = OptimizerConfig(lr=0.2, final_lr=0.01)
    assert learning_rate(config, 500, 100) == pytest.approx(0.01)


def test_a_schedule_of_one_step_has_the_peak() -> None:
    assert rates(1, lr=0.2) == [0.2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nesterov": True, "momentum": 0}, "nesterov needs momentum above 0"),
        ({"schedule": "one_cycle"}, "one_cycle needs warmup_steps above 0"),
        ({"schedule": "constant", "final_lr": 0.1}, "schedule constant does not use final_lr"),
        ({"kind": "adam", "nesterov": True}, "kind adam does not use nesterov"),
        ({"lr": 0}, "greater than 0"),
    ],
)
def test_refused_optimizers(settings: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OptimizerConfig.model_validate(settings)


def test_a_saved_constant_schedule_can_be_read_again() -> None:
    """The resolved experiment names every field, final_lr among them, and must run again."""
    config = OptimizerConfig(schedule="constant")
    assert OptimizerConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(("workers", "parts", "multiple"), [(2, 1, 2), (1, 3, 3), (2, 3, 6)])
def test_a_batch_that_cannot_be_split_is_refused(workers: int, parts: int, multiple: int) -> None:
    with pytest.raises(ValidationError, match=f"accumulation_steps = {multiple}: choose a multiple"):
        StudentConfig(model="x", batch_size=25, num_workers=workers, accumulation_steps=parts)
    StudentConfig(model="x", batch_size=24, num_workers=workers, accumulation_steps=parts)
