"""From one experiment and the name of a method to that method's experiment, by one rule for all methods."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from raydfkd.errors import ConfigError
from raydfkd.models.teachers.teacher import FrozenTeacher, audit_teacher
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.proposal.machine import Machine, this_machine
from raydfkd.pipeline.proposal.method_settings import settings_for
from raydfkd.pipeline.proposal.probing import PROBED_BATCH, probe
from raydfkd.pipeline.proposal.propose import LR, LR_BATCH, SOURCE, STUDENT, assembled
from raydfkd.pipeline.proposal.sizing import (
    ENOUGH_STEPS,
    WARMUP_SHARE,
    Sizes,
    fewest_minutes,
    sizes_for,
    sizes_for_images,
)
from raydfkd.pipeline.proposal.student_choice import Candidate
from raydfkd.pipeline.run import collecting
from raydfkd.report.result_rows import format_duration
from raydfkd.synthesis.method import TeacherTraits
from raydfkd.synthesis.methods import METHODS
from raydfkd.types import SyntheticBatch

T = TypeVar("T")

RULE = (
    "Every method has the settings that raydfkd init would propose: its published ones, with the teacher's image size and "
    "layers taken into account, and its paper's objective and alternation. The student's batch is the largest of 256, 128, 64, "
    f"32 and 16 images that gives it {ENOUGH_STEPS} steps, its peak learning rate {LR:g} for {LR_BATCH} images and in "
    "proportion for fewer, with one cycle of warm-up and cosine over the whole schedule. Images that a method keeps stay in a "
    "buffer of the newest 5,000 or more; those that it does not keep are seen once. All run in lockstep, in one process, with "
    "the same seed."
)
"""How a method's settings follow, for people."""
EVALUATIONS = 10
"""Measurements of a student over its run, besides the last."""
LOG_STEPS = 20
CHECKPOINTS = 10
"""At most about so many of a run."""
LEAST_GENERATED = 16
"""Images of a generator's step, at least: fewer have no statistics."""
LEAST_PREPARED = 0.05
"""Share of a method's work before its first image without which it is not itself."""
LEAST_STRETCHED_S = 0.2
"""Work that takes less says nothing of how busy the machine is."""
KEPT = ("model", "checkpoint", "feature_layers", "classifier_head", "compile", "resources")
"""Settings of the experiment's student that every method's student has."""


@dataclass(frozen=True)
class BenchBudget:
    """What every method may spend: minutes of training or images that the student sees, one of them."""

    minutes: float | None = None
    images: int | None = None

    @property
    def seconds(self) -> float | None:
        return None if self.minutes is None else 60 * self.minutes

    def __str__(self) -> str:
        if self.minutes is None:
            return f"{self.images:,} student images"
        return f"{self.minutes:g} minute{'' if self.minutes == 1 else 's'}"

    def recorded(self) -> dict[str, float | int | None]:
        return {"minutes": self.minutes, "images": self.images}


@dataclass(frozen=True)
class Bench:
    """What all methods have in common.

    Attributes:
        base: the experiment whose teacher, student and data they share.
        teacher: built from it.
        traits: of the teacher.
        metric: accuracy of the teacher on the evaluation images; None without these.
        collected: images for methods that need some, None without any.
        device: where everything runs.
    """

    base: ExperimentConfig
    teacher: FrozenTeacher
    traits: TeacherTraits
    metric: float | None
    collected: SyntheticBatch | None
    device: torch.device

    @property
    def machine(self) -> Machine:
        """One process's share of this machine, which each method has in its turn."""
        return Machine(1, 0, this_machine().memory_bytes)


@dataclass(frozen=True)
class Plan:
    """A method's experiment.

    Attributes:
        config: the experiment.
        batch_s: measured seconds of a batch of images; None where nothing was measured.
        step_s: likewise of a student's step.
        prepare_s: likewise before the first batch.
    """

    config: ExperimentConfig
    batch_s: float | None = None
    step_s: float | None = None
    prepare_s: float | None = None


def open_bench(base: ExperimentConfig) -> Bench:
    """Builds and checks what the methods share.

    Raises:
        RaydfkdError: teacher, student or data cannot be used.
    """
    if len(base.students) > 1 or base.student.model is None or base.student.few_shot is not None:
        raise ConfigError(
            "a bench compares methods by one student with a network of its own: name one student with a model, without pruned "
            "and few_shot"
        )
    if base.evaluation is None and base.held_out is None:
        raise ConfigError("a bench has nothing to measure students on: name labelled images in evaluation, or held_out images")
    device = builder.choose_device(base)
    teacher = builder.build_frozen_teacher(base)
    audit = audit_teacher(teacher)
    builder.build_student(base, teacher)
    evaluator = builder.build_evaluator(base, teacher.to(device), device)
    builder.build_held_out(base, teacher, device)
    collected = collecting.collect(base, teacher, device)
    metric = None if evaluator is None or evaluator.teacher is None else evaluator.teacher.metric
    traits = TeacherTraits.of(base.task.image_shape, audit)
    return Bench(base, teacher, traits, metric, None if collected is None else collected.batch, device)


def plan_for(bench: Bench, name: str, budget: BenchBudget) -> Plan:
    """A method's experiment; where the budget is time, a batch of images and a student's step are timed first.

    Raises:
        RaydfkdError: this teacher, or what there is of images and time, does not allow the method; the message says why.
    """
    probed = _config(bench, name, _probed(name, PROBED_BATCH))
    builder.audit(probed, bench.teacher)
    collected = bench.collected if METHODS.get(name).needs_collected else None
    pixels, classes = math.prod(bench.base.task.image_shape), bench.base.task.num_classes
    fresh = METHODS.get(name).frame.fresh_steps
    if budget.minutes is None:
        assert budget.images is not None, "one of them is given"
        sizes = sizes_for_images(budget.images, bench.machine, classes, pixels, fresh)
        if sizes is None:
            raise ConfigError(f"{budget.images:,} student images are too few for a schedule: raise --images")
        config = _config(bench, name, sizes)
        builder.build_synthesizer(config, SOURCE, 0, bench.device, collected)
        return Plan(config)
    (costs, prepare_s), stretch = stretched(
        lambda: probe(lambda batch: _config(bench, name, _probed(name, batch)), bench.teacher, bench.device, collected)
    )
    if bench.device.type != "cpu":
        stretch = 1.0
    most_s = WARMUP_SHARE * 60 * budget.minutes
    share = min(1.0, most_s / prepare_s) if prepare_s else 1.0
    if share < LEAST_PREPARED:
        raise ConfigError(
            f"there is no time for {name} in {budget}: before its first image it works {format_duration(prepare_s)}; "
            "raise --minutes"
        )
    minutes = (budget.minutes - share * prepare_s / 60) / stretch
    sizes = sizes_for(costs, minutes, bench.machine, classes, pixels, fresh_steps=fresh)
    if sizes is None:
        needed = stretch * fewest_minutes(costs)
        raise ConfigError(
            f"there is no time for {name} in {budget}: its shortest run takes about {needed:.2g} here; raise --minutes"
        )
    config = _config(bench, name, sizes, share)
    return Plan(config, costs.synthesis.of(config.synthesis_batch_size), costs.step.of(sizes.batch), share * prepare_s)


def stretched(work: Callable[[], T]) -> tuple[T, float]:
    """What some work gives, and how many times as long as its processor's time it took because of other work here: what it
    measures is the processor's time, and a budget is one of the clock. At least 1; for work on a CPU."""
    wall, processor = time.perf_counter(), time.process_time()
    done = work()
    wall_s, processor_s = time.perf_counter() - wall, time.process_time() - processor
    return done, max(1.0, wall_s / processor_s) if wall_s > LEAST_STRETCHED_S else 1.0


def _probed(name: str, batch: int) -> Sizes:
    """Of an experiment that is only timed."""
    fresh = METHODS.get(name).frame.fresh_steps or 1
    return Sizes(batch, fresh * batch, warmup_batches=1, rounds=1, steps_per_round=fresh, seconds=0.0)


def _config(bench: Bench, name: str, sizes: Sizes, share: float = 1.0) -> ExperimentConfig:
    """Args:
    share: of the work before the first batch of images that there is time for.
    """
    tree = _tree(bench, name, sizes)
    config = build_experiment(tree, where=f"method {name}")
    if share == 1:
        return config
    tree["sources"][SOURCE] = config.sources[SOURCE].scaled(share).model_dump(mode="json")
    return build_experiment(tree, where=f"method {name}")


def _tree(bench: Bench, name: str, sizes: Sizes) -> dict[str, Any]:
    base, method = bench.base, METHODS.get(name)
    plain = base.model_dump(mode="json")
    head = {"task": plain["task"], "teacher": plain["teacher"]}
    student = Candidate(str(base.student.model), 0, "of the experiment")
    tree = assembled(head, name, settings_for(name, bench.traits), student, sizes, bench.machine)
    source, learner = tree["sources"][SOURCE], tree["students"][STUDENT]
    learner |= {key: plain["students"][base.student_name][key] for key in KEPT} | method.frame.student
    if method.frame.fresh_steps is not None:
        source["batch_size"] = sizes.capacity
        if "generator_batch_size" in method.config.model_fields:
            source["generator_batch_size"] = max(LEAST_GENERATED, sizes.batch)
        tree["replay"]["synthetic"] = {"capacity": sizes.capacity, "max_draws": 1}
    if method.needs_collected:
        tree["collected"] = plain["collected"]
        tree["replay"] |= {key: plain["replay"][key] for key in ("pinned", "pinned_fraction", "inflation")}
    apart, log = _periods(sizes.steps)
    for measured in ("evaluation", "held_out"):
        if plain[measured] is not None:
            tree[measured] = {**plain[measured], "period_steps": apart}
    tree["runtime"] |= {key: plain["runtime"][key] for key in ("seed", "device", "bf16")}
    tree["runtime"] |= {"log_period_steps": log, "checkpoint_period_rounds": max(25, sizes.rounds // CHECKPOINTS)}
    return tree


def _periods(steps: int) -> tuple[int, int]:
    """Student steps between measurements and between records: a record comes right before each measurement, so that the time
    of the latter is known and does not count."""
    apart = max(1, steps // EVALUATIONS)
    parts = -(-apart // LOG_STEPS)
    log = max(1, apart // parts)
    return log * parts, log
