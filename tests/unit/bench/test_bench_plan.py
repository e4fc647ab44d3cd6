"""Every method's experiment by one rule: what all share, what is its own, and what is refused with the reason."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

from raydfkd.bench import plan as planning
from raydfkd.bench.plan import BenchBudget, open_bench, plan_for, stretched
from raydfkd.errors import ConfigError, RaydfkdError, TeacherError
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.proposal.propose import LR, LR_BATCH
from raydfkd.pipeline.proposal.sizing import Costs, Duration
from raydfkd.synthesis.methods import METHODS

IMAGES = BenchBudget(images=16 * 20 * 5)


def without_batch_norm(num_classes: int, in_channels: int) -> nn.Module:
    layers = [nn.Conv2d(in_channels, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, num_classes))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs that no busy machine changes: a millisecond an image, and a minute of preparation."""
    costs = Costs(Duration(0.0, 1e-3), Duration(0.0, 1e-3), 10**6)
    monkeypatch.setattr(planning, "probe", lambda at, *_: (costs, 60.0 if "hidfd" in repr(at(8).sources) else 0.0))


def test_every_method_that_is_allowed_spends_the_same_student_images_at_one_rate(base: ExperimentConfig) -> None:
    bench = open_bench(base)
    spent, rates = set(), set()
    for name in METHODS:
        if METHODS.get(name).needs_collected:
            with pytest.raises(ConfigError, match="name them in collected"):
                plan_for(bench, name, IMAGES)
            continue
        config = plan_for(bench, name, IMAGES).config
        spent.add(config.schedule.total_steps * config.student.batch_size)
        rates.add(config.student.optimizer.lr)
        assert (config.student.model, config.runtime.seed, config.schedule.mode) == ("small_cnn_4", 3, "lockstep")
        assert config.collected is None
    assert spent == {IMAGES.images}
    assert rates == {LR * 16 / LR_BATCH}


def test_methods_that_keep_no_images_alternate_as_published(base: ExperimentConfig) -> None:
    bench = open_bench(base)
    for name, steps, objective in (("dfad", 5, "l1"), ("dfq", 10, "kl"), ("zskt", 5, "kl"), ("predfkd", 10, "l1")):
        config = plan_for(bench, name, IMAGES).config
        table, schedule = config.replay.synthetic, config.schedule
        assert (schedule.student_steps_per_round, table.max_draws, table.capacity) == (steps, 1, steps * 16)
        assert config.synthesis_batch_size == steps * config.student.batch_size
        assert config.student.objective.kind == objective
    kept = plan_for(bench, "fast", IMAGES).config
    assert (kept.replay.synthetic.max_draws, kept.schedule.student_steps_per_round) == (None, 20)
    assert plan_for(bench, "ssdkd", IMAGES).config.replay.synthetic.sampler.kind == "prioritized"


@pytest.mark.usefixtures("quick")
def test_a_schedule_fills_the_minutes_and_work_before_it_at_most_a_quarter(tree: dict[str, Any]) -> None:
    tree["collected"] = {"dataset": {"kind": "digits", "split": "train"}, "num_images": 40}
    tree["replay"]["pinned"] = {"capacity": 40}
    bench, minutes = open_bench(build_experiment(tree)), 2.0
    seconds = {}
    for name in ("fast", "dfad", "hidfd"):
        plan = plan_for(bench, name, BenchBudget(minutes=minutes))
        config, schedule = plan.config, plan.config.schedule
        made = (schedule.warmup_batches + schedule.rounds) * config.synthesis_batch_size
        seconds[name] = 1e-3 * (made + schedule.total_steps * config.student.batch_size) + (plan.prepare_s or 0.0)
        assert (config.collected is None) == (name != "hidfd")
        if name == "hidfd":
            assert plan.prepare_s == pytest.approx(30.0)
            assert config.sources["images"].pretrain_steps == 25_000, "half of what would take a minute"
            assert config.replay.pinned is not None
            assert config.student.objective.kind == "classifier_sharing"
    with pytest.raises(ConfigError, match="before its first image it works 1 min 00 s; raise"):
        plan_for(bench, "hidfd", BenchBudget(minutes=0.1))
    assert all(0.8 * 60 * minutes < spent <= 60 * minutes for spent in seconds.values()), seconds


@pytest.mark.usefixtures("quick")
def test_a_busy_machine_gets_a_shorter_schedule(base: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = open_bench(base)
    alone = plan_for(bench, "fast", BenchBudget(minutes=2)).config
    monkeypatch.setattr(planning, "stretched", lambda work: (work(), 4.0))
    beside = plan_for(bench, "fast", BenchBudget(minutes=2)).config
    images = [one.schedule.total_steps * one.student.batch_size for one in (alone, beside)]
    assert images[1] == pytest.approx(images[0] / 4, rel=0.1)
    with pytest.raises(ConfigError, match=r"no time for fast in 0\.01 minutes: its shortest run takes .*; raise --minutes"):
        plan_for(bench, "fast", BenchBudget(minutes=0.01))


def test_waiting_stretches_work_and_computing_does_not() -> None:
    assert stretched(lambda: time.sleep(0.25))[1] > 2
    assert stretched(lambda: time.sleep(0.01)) == (None, 1.0), "too short to say"


def test_a_record_comes_right_before_every_measurement(base: ExperimentConfig) -> None:
    bench = open_bench(base)
    for images in (16 * 20 * 4, 16 * 20 * 37, 10**6):
        config = plan_for(bench, "fast", BenchBudget(images=images)).config
        log = config.runtime.log_period_steps
        assert config.evaluation_period_steps % log == 0
        assert log <= 20
        assert 10 <= config.schedule.total_steps / config.evaluation_period_steps <= 13


def test_what_a_teacher_does_not_allow_is_refused_with_the_reason(tree: dict[str, Any]) -> None:
    tree["teacher"] = {"model": f"{__name__}:without_batch_norm", "normalization": {"mean": [0.3], "std": [0.4]}}
    bench = open_bench(build_experiment(tree))
    with pytest.raises(TeacherError, match="BatchNorm"):
        plan_for(bench, "cmi", IMAGES)
    assert plan_for(bench, "fast", IMAGES).config.sources["images"].bn_weight == 0
    with pytest.raises(ConfigError, match="100 student images are too few"):
        plan_for(bench, "fast", BenchBudget(images=100))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"evaluation": None}, "nothing to measure students on"),
        ({"students": {"small": {"pruned": {"ratio": 0.5}}}}, "one student with a network of its own"),
        ({"teacher": {"model": "small_cnn_8", "checkpoint": "none.safetensors"}}, "none.safetensors"),
    ],
)
def test_what_all_methods_share_is_checked_first(tree: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(RaydfkdError, match=said):
        open_bench(build_experiment({**tree, **change}))


def test_costs_are_measured_with_fresh_images_too(base: ExperimentConfig) -> None:
    torch.set_num_threads(1)
    plan = plan_for(open_bench(base), "dfad", BenchBudget(minutes=0.5))
    assert plan.batch_s is not None
    assert plan.batch_s > 0
    assert plan.config.schedule.rounds >= 4
