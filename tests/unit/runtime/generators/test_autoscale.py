"""The autoscale policy: who waits tells who is short, in bounds, one at a time, and without swinging."""

from __future__ import annotations

from typing import Any

import pytest

from raydfkd.errors import ConfigError
from raydfkd.runtime.generators.autoscale_policy import AutoscalePolicy, WaitMeter, Waits
from raydfkd.synthesis.method import AutoscaleConfig

CONFIG = AutoscaleConfig(min=1, max=4, add_above=0.1, spare=0.2, window_s=10, cooldown_s=30)


def target_of(target: int, student: float | None, generator: float | None, missing: int = 0) -> int:
    change = AutoscalePolicy(CONFIG, 0.0).decide(target, target - missing, Waits(student, generator))
    return target if change is None else change.target


@pytest.mark.parametrize(
    ("target", "student", "generator", "wanted"),
    [
        (2, 0.5, 0.0, 3),  # students starve, generators are busy
        (2, 0.5, None, 3),  # so busy that none has finished a batch in the window
        (2, 0.5, 0.5, 2),  # both wait: for something else
        (2, 0.08, 0.0, 2),  # between the thresholds
        (4, 0.9, 0.0, 4),  # never beyond the bounds
        (1, 0.0, 0.9, 1),
        (4, 0.0, 0.41, 3),  # 4 (1 - 0.41) = 2.36 <= 3 x 0.8 = 2.4
        (4, 0.0, 0.39, 4),  # 2.44 > 2.4
        (2, 0.0, 0.61, 1),  # 0.78 <= 0.8
        (2, 0.0, 0.59, 2),
        (4, 0.06, 0.9, 4),  # students wait a little already
        (2, None, 0.9, 2),  # nothing is known of the students
        (2, 0.0, None, 2),
    ],
)
def test_a_decision(target: int, student: float | None, generator: float | None, wanted: int) -> None:
    assert target_of(target, student, generator) == wanted


def test_the_reason_is_told_with_its_figures() -> None:
    change = AutoscalePolicy(CONFIG, 0.0).decide(1, 1, Waits(0.25, 0.05))
    assert change is not None
    assert change.reason == "over 10 s students waited 25% of their time, its generators 5%"


def test_while_one_has_no_place_no_other_is_added_and_it_is_dropped_once_students_do_not_wait() -> None:
    assert target_of(3, 0.5, 0.0, missing=1) == 3
    assert target_of(3, 0.07, 0.0, missing=1) == 3
    assert target_of(3, 0.02, 0.0, missing=1) == 2
    assert target_of(3, 0.02, 0.0) == 3


def test_nothing_is_decided_within_the_cool_down_nor_before_a_whole_window() -> None:
    policy = AutoscalePolicy(CONFIG, 100.0)
    assert not policy.is_due(129.0)
    assert policy.is_due(130.0)
    policy.note_change(130.0)
    assert not policy.is_due(159.0)
    window = AutoscalePolicy(CONFIG.model_copy(update={"cooldown_s": 0.0}), 0.0)
    assert not window.is_due(9.0), "a whole window is looked at, whatever the cool-down"
    assert window.is_due(10.0)


@pytest.mark.parametrize("demand", [0.3, 0.9, 1.0, 1.5, 2.2, 3.1, 7.0])
def test_it_comes_to_rest_at_a_number_that_can_do_the_work(demand: float) -> None:
    """A student that would use ``demand`` generators' work; whichever side is faster waits for the other."""
    for begin in (1, 4):
        target, seen = begin, []
        for _ in range(20):
            pace = min(1.0, target / demand)
            target = target_of(target, 1 - pace, 1 - pace * demand / target)
            seen.append(target)
        assert len(set(seen[6:])) == 1, "it does not swing"
        assert all(abs(one - other) <= 1 for one, other in zip([begin, *seen], seen, strict=False))
        assert target >= min(4, 0.9 * demand), "the student waits a tenth of its time at most, where the bounds allow"
        assert target <= max(1, demand / 0.8 + 1), "and no more than one is idle"


def throughput(waited_s: float, **given: Any) -> dict[str, Any]:
    return {"student_wait_data_s": waited_s / 4, "student_wait_limiter_s": waited_s * 3 / 4, **given}


def synthesis(generator: str, waited_s: float, seconds: float) -> dict[str, Any]:
    waits = {"generator_wait_limiter_s": waited_s, "generator_wait_weights_s": 0.0}
    return {"generator_id": generator, "seconds": seconds, **waits}


def test_waits_are_shares_of_the_time_between_records() -> None:
    meter = WaitMeter(100.0)
    for at, waited_s in ((10.0, 9.0), (20.0, 1.0), (30.0, 3.0)):
        meter.take("throughput", throughput(waited_s), at)
    assert meter.waits("a", 15.0, 0.0).student == pytest.approx(0.2)
    assert meter.waits("a", 25.0, 0.0).student == pytest.approx(0.3)
    assert meter.waits("a", 25.0, 25.0).student is None, "the record's time began before the change"
    assert meter.waits("a", 31.0, 0.0).student is None


def test_a_student_that_starves_and_so_reports_seldom_is_heard() -> None:
    meter = WaitMeter(10.0)
    meter.take("throughput", throughput(0.0), 0.0)
    meter.take("throughput", throughput(190.0), 200.0)
    assert meter.waits("a", 195.0, 0.0).student == pytest.approx(0.95)


def test_of_several_students_the_one_that_waits_most_counts() -> None:
    meter = WaitMeter(100.0)
    for at in (0.0, 10.0):
        meter.take("throughput", throughput(1.0, student="one"), at)
        meter.take("throughput", throughput(4.0, student="two"), at)
    assert meter.waits("a", 0.0, 0.0).student == pytest.approx(0.4)


def test_a_sources_own_generators_count_and_old_records_are_forgotten() -> None:
    meter = WaitMeter(10.0)
    meter.take("synthesis", synthesis("a-0", 9.0, 1.0), 0.0)
    meter.take("synthesis", synthesis("a-0", 1.0, 3.0), 20.0)
    meter.take("synthesis", synthesis("a-1", 0.0, 4.0), 21.0)
    meter.take("synthesis", synthesis("b-0", 5.0, 5.0), 21.0)
    assert meter.waits("a", -1.0, 0.0).generator == pytest.approx(1 / 8)
    assert meter.waits("a", 20.5, 0.0).generator == 0.0
    assert meter.waits("c", 0.0, 0.0) == Waits(None, None)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ("sources.a.autoscale={min: 3, max: 2}", "autoscale.min 3 is above autoscale.max 2"),
        ("sources.a.autoscale={min: 2, max: 3}", "num_generators 1 is outside autoscale.min 2 .. autoscale.max 3"),
        ("schedule.mode=lockstep", "autoscale needs schedule.mode decoupled"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: str, refusal: str) -> None:
    from replay_rig import config

    from raydfkd.pipeline.experiment.config import build_experiment

    tree = config({"mode": "decoupled"}).model_dump(mode="json", exclude_unset=True)
    tree["sources"]["a"] = {**tree["sources"].pop("inversion"), "autoscale": {"max": 2}}
    assert build_experiment(tree).sources["a"].autoscale == AutoscaleConfig(max=2)
    with pytest.raises(ConfigError, match=refusal):
        build_experiment(tree, [change])
