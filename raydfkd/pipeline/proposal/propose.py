"""From what is known of a teacher to an experiment: the method that it allows, and student and sizes by measuring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from raydfkd.data.dataset_kind import DatasetConfig
from raydfkd.data.kinds import open_source
from raydfkd.errors import TeacherError
from raydfkd.models.teachers.teacher import FrozenTeacher, TeacherAudit, audit_teacher
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.proposal.findings import Findings, Found
from raydfkd.pipeline.proposal.machine import Machine
from raydfkd.pipeline.proposal.probing import PROBED_BATCH, probe
from raydfkd.pipeline.proposal.sizing import Costs, Sizes, no_time, sizes_for
from raydfkd.pipeline.proposal.student_choice import Candidate, candidates, named
from raydfkd.synthesis.method import Suggestion, TeacherTraits
from raydfkd.synthesis.methods import METHODS, suggestions
from raydfkd.tasks import DEFAULT_KIND, kind_with

SOURCE, STUDENT = "images", "student"
"""Names of the parts of a proposed experiment."""
PROBED = Sizes(batch=PROBED_BATCH, capacity=PROBED_BATCH, warmup_batches=1, rounds=1, steps_per_round=1, seconds=0.0)
"""What is timed first."""
LOOKED_AT = 200
"""Evaluation images that are read to see whether they and the teacher fit together."""
EVALUATED_SHARE, LEAST_EVALUATED = 0.1, 500
"""Share of the time that evaluation may take, and how many images it has in any case."""
PASSES = 13
"""Times that a run reads its evaluation images."""
LR, LR_BATCH, WARMUP_STEPS = 0.2, 256, 300
"""The papers' peak learning rate, the batch it is for, and the most steps until it is reached."""
MOST_GENERATORS = 8


@dataclass(frozen=True)
class Wishes:
    """What the user wants.

    Attributes:
        student: its network; None: chosen.
        max_params: most parameters of a chosen one; None: well below the teacher's.
        minutes: time for the run.
        evaluation: labelled images to report on.
        method: that makes images; None: the best of those that suit the teacher.
    """

    student: str | None = None
    max_params: int | None = None
    minutes: float = 30.0
    evaluation: DatasetConfig | None = None
    method: str | None = None


@dataclass(frozen=True)
class Proposal:
    """A proposed experiment.

    Attributes:
        findings: what is known of the teacher.
        audit: what it can do.
        tree: the settings that were decided; all others are defaults.
        config: the experiment.
        reasons: why, by dotted key.
        seconds: how long the run takes by what was measured.
        machine: that it is for.
        warnings: what looks wrong, one sentence each.
    """

    findings: Findings
    audit: TeacherAudit
    tree: dict[str, Any]
    config: ExperimentConfig
    reasons: dict[str, str]
    seconds: float
    machine: Machine
    warnings: tuple[str, ...]


def propose(findings: Findings, wishes: Wishes, machine: Machine) -> Proposal:
    """The experiment for a teacher of whom nothing is missing; audits it, and times a batch and a few student steps here.

    Raises:
        TeacherError: the teacher cannot be used, or no method suits it.
        ConfigError: there is no student as wished, or no time.
    """
    tree = _teacher_tree(findings)
    config = _with_any_student(tree)
    tree["task"]["kind"] = builder.recorded_task(config.teacher.weights) or tree["task"]["kind"]
    teacher = builder.build_frozen_teacher(_with_any_student(tree))
    found = kind_with(teacher.positions, teacher.num_classes, teacher.image_shape)
    tree["task"]["kind"] = found or tree["task"]["kind"]
    audit = audit_teacher(teacher)
    method, suggestion = _method_for(findings, audit, wishes.method)
    device = builder.device_of("auto")
    costs, candidate, sizes = None, None, None
    for candidate in _students(findings, wishes, audit, teacher.positions):
        costs = measure(teacher, assembled(tree, method, suggestion, candidate, PROBED, machine), device)
        fitting = sizes_for(costs, wishes.minutes, machine, teacher.num_classes, _pixels(findings), _beside(machine))
        if fitting is not None:
            sizes = fitting
            break
    assert costs is not None, "there is a student to try"
    assert candidate is not None
    if sizes is None:
        raise no_time(costs, wishes.minutes)
    tree = assembled(tree, method, suggestion, candidate, sizes, machine)
    reasons = _reasons(findings, method, suggestion, candidate, sizes, costs, machine, audit, wishes)
    warnings = [*audit.warnings]
    if wishes.evaluation is not None:
        dataset, why = _evaluation(wishes.evaluation, wishes.minutes, costs)
        tree["evaluation"], reasons["evaluation.dataset"] = {"dataset": dataset}, why
        warnings += _first_look(tree, teacher, device)
    return Proposal(findings, audit, tree, build_experiment(tree), reasons, sizes.seconds, machine, tuple(warnings))


def _teacher_tree(findings: Findings) -> dict[str, Any]:
    """The settings that say what the teacher is."""
    assert findings.num_classes is not None, "nothing is missing"
    assert findings.normalization is not None
    task = {"kind": DEFAULT_KIND, "num_classes": findings.num_classes.value, "image_shape": list(findings.image_shape)}
    teacher: dict[str, Any] = {"model": findings.model}
    if findings.checkpoint is not None:
        teacher["checkpoint"] = findings.checkpoint
    mean, std = (list(values) for values in findings.normalization.value)
    teacher["normalization"] = {name: _for_channels(value, findings) for name, value in (("mean", mean), ("std", std))}
    return {"task": task, "teacher": teacher}


def _for_channels(values: list[float], findings: Findings) -> list[float]:
    """One number stands for all channels."""
    return values * findings.image_shape[0] if len(values) == 1 else values


def _with_any_student(tree: dict[str, Any]) -> ExperimentConfig:
    """An experiment that has this teacher, to build it by."""
    pinned = {"collected": {"dataset": {"kind": "digits"}}, "replay": {"synthetic": {"capacity": 1}, "pinned": {"capacity": 1}}}
    schedule = {"warmup_batches": 0, "batches_per_round": 0}
    return build_experiment({**tree, **pinned, "schedule": schedule, "students": {STUDENT: {"model": "small_cnn_4"}}})


def _method_for(findings: Findings, audit: TeacherAudit, wished: str | None) -> tuple[str, Suggestion]:
    """The best method that suits the teacher, or the wished one.

    Raises:
        TeacherError: none does, or not this one.
        UnknownNameError: there is no such method.
    """
    traits = TeacherTraits.of(findings.image_shape, audit)
    suiting = suggestions(traits)
    if not suiting:
        raise TeacherError(
            f"no method makes images for this teacher by itself: its images are {list(traits.image_shape)}"
            + ("" if audit.input_gradient else ", and it gives no gradient")
            + "; collected images of the same kind would do (collected in an experiment file)"
        )
    name = next(iter(suiting)) if wished is None else wished
    METHODS.get(name)
    if name not in suiting:
        raise TeacherError(f"no settings of method {name!r} are known to suit this teacher: choose one of {', '.join(suiting)}")
    return name, suiting[name]


def _students(findings: Findings, wishes: Wishes, audit: TeacherAudit, positions: tuple[int, ...]) -> list[Candidate]:
    assert findings.num_classes is not None
    classes, shape = findings.num_classes.value, findings.image_shape
    if wishes.student is not None:
        return [named(wishes.student, classes, shape)]
    return candidates(findings.model, audit.num_params, classes, shape, wishes.max_params, positions)


def measure(teacher: FrozenTeacher, tree: dict[str, Any], device: torch.device) -> Costs:
    """Seconds and memory of an assembled experiment."""

    def at(batch: int) -> ExperimentConfig:
        tree["sources"][SOURCE]["batch_size"] = tree["students"][STUDENT]["batch_size"] = batch
        tree["replay"]["synthetic"]["capacity"] = batch
        return build_experiment({**tree, "runtime": {"runner": "local"}, "schedule": {"warmup_batches": 1, "rounds": 1}})

    return probe(at, teacher, device)[0]


def assembled(
    tree: dict[str, Any], method: str, suggestion: Suggestion, student: Candidate, sizes: Sizes, machine: Machine
) -> dict[str, Any]:
    """The whole experiment but for its evaluation.

    Args:
        tree: the settings of task and teacher.
    """
    _, height, width = tree["task"]["image_shape"]
    source = {"method": method, "batch_size": sizes.batch, **suggestion.settings}
    learner: dict[str, Any] = {
        "model": student.model,
        "batch_size": sizes.batch,
        **suggestion.student,
        "optimizer": {
            "lr": LR * min(1.0, sizes.batch / LR_BATCH),
            "schedule": "one_cycle",
            "warmup_steps": max(1, min(WARMUP_STEPS, sizes.steps // 10)),
            "max_grad_norm": 1.0,
        },
        "ema_decay": round(min(0.998, 1 - 1 / max(2, sizes.steps // 20)), 4),
        "crop_padding": min(height, width) // 8,
        "flip": tree["task"]["image_shape"][0] != 1,
    }
    schedule: dict[str, Any] = {
        "warmup_batches": sizes.warmup_batches,
        "rounds": sizes.rounds,
        "student_steps_per_round": sizes.steps_per_round,
    }
    runtime: dict[str, Any] = {"runner": "local"}
    if machine.uses_ray:
        generators = _generators(machine)
        source |= {"num_generators": generators, "resources": _generator_resources(machine)}
        learner["resources"] = _student_resources(machine)
        schedule |= {
            "mode": "decoupled",
            "samples_per_insert": float(sizes.steps_per_round),
            "error_buffer": float(4 * generators * sizes.batch * sizes.steps_per_round),
            "prefetch": 2,
            "batches_per_request": min(4, sizes.steps_per_round),
        }
        runtime = {"runner": "ray", **({} if machine.address is None else {"address": machine.address})}
    return {
        **tree,
        "sources": {SOURCE: source},
        "replay": {"synthetic": {"capacity": sizes.capacity, "sampler": suggestion.sampler}},
        "students": {STUDENT: learner},
        "schedule": schedule,
        "runtime": runtime,
    }


def _generators(machine: Machine) -> int:
    """As many as there are GPUs beside the student's, or cores."""
    if machine.gpus:
        return max(1, min(MOST_GENERATORS, machine.gpus - 1))
    return max(1, min(MOST_GENERATORS, machine.cores - machine.cores // 2))


def _beside(machine: Machine) -> int:
    """Generators that work while the student does, for the estimate: cores are shared, and add up to what was timed."""
    return _generators(machine) if machine.uses_ray and machine.gpus > 1 else 1


def _generator_resources(machine: Machine) -> dict[str, Any]:
    return {"num_cpus": 1, **({"num_gpus": 1 if machine.gpus > 1 else 0.5} if machine.gpus else {})}


def _student_resources(machine: Machine) -> dict[str, Any]:
    if machine.gpus:
        return {"num_cpus": 1, "num_gpus": 1 if machine.gpus > 1 else 0.5}
    return {"num_cpus": max(1, machine.cores // 2)}


def _pixels(findings: Findings) -> int:
    channels, height, width = findings.image_shape
    return channels * height * width


def _evaluation(dataset: DatasetConfig, minutes: float, costs: Costs) -> tuple[dict[str, Any], str]:
    """The data set's settings, with fewer images if all of them would take too long."""
    tree = {"kind": dataset.kind, **dataset.model_dump(mode="json", exclude_defaults=True)}
    total = open_source(dataset, labelled=False).total
    # Of a step, about half is the two forward passes that an evaluation consists of.
    affordable = max(LEAST_EVALUATED, int(EVALUATED_SHARE * minutes * 60 / (PASSES * costs.step.image_s / 2)))
    if min(total, dataset.max_images or total) <= affordable:
        return tree, "labelled images for reporting only, never for training"
    return {**tree, "max_images": affordable}, f"for reporting only; of {total:,} images so many as take little time"


def _first_look(tree: dict[str, Any], teacher: FrozenTeacher, device: torch.device) -> list[str]:
    """What a few of the evaluation images show.

    Raises:
        DataError: they cannot be read, or are not for this task.
    """
    dataset = {**tree["evaluation"]["dataset"]}
    dataset["max_images"] = min(LOOKED_AT, dataset.get("max_images", LOOKED_AT))
    config = build_experiment({**tree, "evaluation": {"dataset": dataset}})
    evaluator = builder.build_evaluator(config, teacher.to(device), device)
    assert evaluator is not None
    return builder.warnings_on(config, teacher, evaluator, device)


def _reasons(
    findings: Findings,
    method: str,
    suggestion: Suggestion,
    student: Candidate,
    sizes: Sizes,
    costs: Costs,
    machine: Machine,
    audit: TeacherAudit,
    wishes: Wishes,
) -> dict[str, str]:
    source, learner = f"sources.{SOURCE}", f"students.{STUDENT}"
    found = {
        "task.num_classes": findings.num_classes,
        "task.image_shape": findings.image_size,
        "teacher.normalization": findings.normalization,
    }
    share = audit.num_params / student.params
    batch_s, step_s = costs.synthesis.of(sizes.batch), costs.step.of(sizes.batch)
    reasons = {key: told for key, one in found.items() if one is not None for told in _told(one)}
    reasons |= {f"{source}.{name}": why for name, why in suggestion.reasons.items()}
    reasons[f"{source}.batch_size"] = _why_batch(sizes)
    reasons["replay.synthetic.capacity"] = "the newest images; older ones are discarded"
    reasons[f"{learner}.model"] = (
        f"{student.why}: {student.params:,} parameters, the teacher has {audit.num_params:,} ({share:,.1f} times as many)"
    )
    reasons["schedule.rounds"] = (
        f"about {sizes.seconds / 60:.2g} of {wishes.minutes:g} minutes, measured here: {batch_s:.2g} s for a batch of images, "
        f"{step_s:.2g} s for a student step"
    )
    reasons["runtime.runner"] = machine.describe()
    return reasons


def _told(found: Found[Any]) -> Iterator[str]:
    yield (
        f"assumed, from {found.where}: change it if this teacher was trained otherwise"
        if found.assumed
        else f"from {found.where}"
    )


def _why_batch(sizes: Sizes) -> str:
    return f"so that there are {sizes.steps:,} student steps in the time, and memory is enough"
