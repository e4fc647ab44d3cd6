"""Checks an experiment before it is started: teacher, student, data, rate limiter and run time.

All checks run, so that a user sees all problems at once. The command line checks whether a Ray cluster has the resources,
since this package does not import Ray.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from raydfkd.errors import RaydfkdError, described, raised_in
from raydfkd.models.precision import device_name
from raydfkd.models.teachers.teacher_audit import TeacherAudit, audit_teacher
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.experiment.timing import Timing
from raydfkd.pipeline.run import collecting
from raydfkd.pipeline.run.exchange_state import build_rate_limiters
from raydfkd.pipeline.run.outcome import count_params
from raydfkd.resources import use_threads
from raydfkd.synthesis.method import TeacherTraits
from raydfkd.synthesis.methods import suggestions
from raydfkd.types import BufferSummary, SyntheticBatch

T = TypeVar("T")


@dataclass
class Diagnosis:
    """The findings.

    Attributes:
        rows: (what, finding), for display.
        problems: one sentence each; any of them would make a run fail or be rejected.
    """

    rows: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def attempt(self, check: Callable[[], T]) -> T | None:
        """The result of ``check``, or None with the problem recorded if it raises a user error, or code of the user's fails."""
        try:
            return check()
        except RaydfkdError as error:
            problem = str(error)
        except Exception as error:
            if raised_in(error) is None:
                raise
            problem = f"the code of this experiment's networks or data ends with {described(error)}"
        if problem not in self.problems:
            self.problems.append(problem)
        return None


def diagnose(config: ExperimentConfig) -> Diagnosis:
    """Builds every part once, audits the teacher, and times one synthesized batch and a few student steps."""
    found = Diagnosis()
    teacher = found.attempt(lambda: builder.build_frozen_teacher(config))
    if teacher is not None:
        found.rows.append(("teacher", config.teacher.model))
        audit = found.attempt(lambda: audit_teacher(teacher))
        if audit is not None:
            found.rows += [(f"teacher: {what}", finding) for what, finding in audit.table()]
            found.rows += _methods_for(config, audit)
            found.attempt(lambda: builder.refuse_unsuited(config, audit))
    device = found.attempt(lambda: builder.choose_device(config))
    for name in config.students:
        student = found.attempt(partial(builder.build_student, config, None, name))
        if student is not None:
            size = count_params(student)
            times = f", {count_params(teacher.model) / size:.1f} times fewer than the teacher" if teacher is not None else ""
            found.rows.append((f"student {name!r}", f"{config.model_of(name)}, {size:,} parameters{times}"))
            if teacher is not None and device is not None:
                told = found.attempt(partial(builder.try_student, config, teacher, name, device))
                found.rows += [("warning", warning) for warning in told or ()]
    found.rows += _buffer_rows(config)
    found.attempt(lambda: build_rate_limiters(config))
    if config.evaluation is not None and teacher is not None and device is not None:
        evaluator = found.attempt(lambda: builder.build_evaluator(config, teacher, device))
        if evaluator is not None:
            found.rows.append(("evaluation data", f"{evaluator.split}, {len(evaluator.dataset):,} images, for reporting only"))
            told = found.attempt(lambda: builder.warnings_on(config, teacher, evaluator, device))
            found.rows += [("warning", warning) for warning in told or ()]
    collected = None
    if config.collected is not None and teacher is not None and device is not None:
        collected = found.attempt(lambda: collecting.collect(config, teacher, device))
        if collected is not None:
            found.rows.append(("collected images", collected.describe()))
            found.rows += [("warning", warning) for warning in collecting.warnings_of(config, collected)]
    if device is not None and not found.problems:
        images = None if collected is None else collected.batch
        timed = found.attempt(lambda: _time_rows(config, device, images))
        found.rows += [] if timed is None else timed
    return found


def _methods_for(config: ExperimentConfig, audit: TeacherAudit) -> list[tuple[str, str]]:
    """What this teacher allows, best first; the settings are those that ``raydfkd init`` writes."""
    suiting = suggestions(TeacherTraits.of(config.task.image_shape, audit))
    return [
        (f"suits this teacher, no. {place}", f"{name}: {suggestion.reasons['method']}")
        for place, (name, suggestion) in enumerate(suiting.items(), 1)
    ]


def _buffer_rows(config: ExperimentConfig) -> list[tuple[str, str]]:
    tables = [("synthetic", config.replay.synthetic), ("pinned", config.replay.pinned)]
    rows = []
    for name, table in tables:
        if table is not None:
            megabytes = table.capacity * math.prod(config.task.image_shape) / 1e6
            rows.append((f"buffer: {name}", f"{table.capacity:,} images, {megabytes:,.1f} MB when full"))
    return rows


def _time_rows(config: ExperimentConfig, device: torch.device, collected: SyntheticBatch | None) -> list[tuple[str, str]]:
    """Measured on this machine, with the threads of the settings; other machines give different times."""
    timing, is_local = Timing(device), config.runtime.runner == "local"
    together = max((s.resources.num_threads or 0 for s in config.students.values()), default=0) or None
    timed, step_s = {}, {}
    for source, settings in config.sources.items():
        use_threads(together if is_local else settings.resources.threads)
        timed[source] = time_synthesis(config, source, device, collected, timing)
    for name, student in config.students.items():
        use_threads(together if is_local else student.resources.threads)
        step_s[name] = time_student(config, name, device, timing)
    preparation_s = {source: prepare_s for source, (prepare_s, _) in timed.items()}
    batch_s = {source: seconds for source, (_, seconds) in timed.items()}
    busy = timing.warning()
    schedule = config.schedule
    # Ray Train's worker groups run in parallel; the slowest determines the pace.
    student_s = schedule.total_steps * (sum if config.runtime.runner == "local" else max)(step_s.values())
    per_batch_s = sum(batch_s[source] for source, _ in config.generators) / max(1, len(config.generators))
    batches = schedule.warmup_batches + schedule.rounds * schedule.batches_per_round
    if schedule.mode == "lockstep":
        whole_s, how = batches * per_batch_s + student_s, "sequentially"
    else:
        warmup_s = schedule.warmup_batches * per_batch_s / len(config.generators)
        if schedule.samples_per_insert is not None:
            draws = schedule.total_steps * config.student.batch_size
            batches = math.ceil(draws / schedule.samples_per_insert / config.synthesis_batch_size)
            whole_s = warmup_s + max(student_s, batches * per_batch_s / len(config.generators))
        else:
            whole_s = warmup_s + student_s
        how = "in parallel, if each has its own processor"
    whole_s += max(preparation_s.values(), default=0.0)
    return [
        ("device here", device_name(device)),
        *((f"source {name!r}", f"{_duration(s)} before its first batch") for name, s in preparation_s.items() if s > 0),
        *(
            (f"source {name!r}", f"{seconds:.3g} s per batch of {config.synthesis_batch_size}")
            for name, seconds in batch_s.items()
        ),
        *(
            (f"{config.label_of(name)} step", f"{seconds:.3g} s for {config.students[name].batch_size} images")
            for name, seconds in step_s.items()
        ),
        ("the whole run", f"about {_duration(whole_s)}: {schedule.total_steps:,} student steps, {how}"),
        *([] if busy is None else [("warning", busy)]),
    ]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def time_synthesis(
    config: ExperimentConfig, source: str, device: torch.device, collected: SyntheticBatch | None, timing: Timing
) -> tuple[float, float]:
    """Seconds before the first batch, extrapolated from a slice, and per batch with every loss active, after warm-up."""
    synthesizer = builder.build_synthesizer(config, source, 0, device, collected)
    began = time.perf_counter()
    prepared = synthesizer.prepare()
    prepare_s = 0.0 if prepared is None else (time.perf_counter() - began) * prepared.total / prepared.done
    counts = np.ones(config.task.num_classes, dtype=np.int64)
    summary = BufferSummary(int(counts.sum()), counts, config.schedule.warmup_batches + 1)
    synthesizer.step(summary)
    return prepare_s, timing.seconds(lambda: synthesizer.step(summary))


def time_student(config: ExperimentConfig, name: str, device: torch.device, timing: Timing) -> float:
    """Seconds per student step on a resident batch, after warm-up; for all workers together on one device."""
    distiller = builder.build_distiller(config, device, name)
    size = config.students[name].batch_size
    images = torch.randint(0, 256, (size, *config.task.image_shape), dtype=torch.uint8, device=device)
    weights = torch.ones(size, device=device)
    float(distiller.step(images, weights).loss)
    return timing.seconds(lambda: float(distiller.step(images, weights).loss))
