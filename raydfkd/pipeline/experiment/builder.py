"""From a checked experiment to its parts. All runners build through here, so that only the runner differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from raydfkd.distillation import student_trial
from raydfkd.distillation.distiller import Distiller
from raydfkd.distillation.few_shot import FEW_SHOT
from raydfkd.distillation.objectives import OBJECTIVES
from raydfkd.errors import CheckpointError, ConfigError, DataError, TeacherError
from raydfkd.evaluation.accuracy import Evaluator
from raydfkd.evaluation.first_look import look_at
from raydfkd.evaluation.held_out_agreement import HeldOutEvaluator
from raydfkd.models.catalog import build_classifier
from raydfkd.models.classifiers.pruning import Kept, draw_anew, find_chain, shrink, strongest_filters
from raydfkd.models.exported import ScriptedClassifier
from raydfkd.models.hugging_face.hub_folder import PREFIX, open_hub_folder
from raydfkd.models.precision import evaluating, prepare, require_compiler, supports_bfloat16
from raydfkd.models.teachers import teacher_warnings
from raydfkd.models.teachers.output_kind import kind_of
from raydfkd.models.teachers.teacher import FrozenTeacher, build_teacher, pixels_of
from raydfkd.models.teachers.teacher_audit import (
    TeacherAudit,
    audit_teacher,
    require_batch_norm,
    require_input_gradient,
    require_positions,
)
from raydfkd.models.weights import load_weights, read_metadata
from raydfkd.pipeline.experiment.config import ExperimentConfig, TeacherConfig, generator_id
from raydfkd.seeds import derive_seed
from raydfkd.synthesis.attacked import AttackedSynthesizer
from raydfkd.synthesis.low_loss_filter import FilteredSynthesizer
from raydfkd.synthesis.method import SynthesisContext, SynthesisParts
from raydfkd.synthesis.methods import METHODS
from raydfkd.tasks import TaskConfig, build_task
from raydfkd.types import Synthesizer, SyntheticBatch

NUM_WARNING_IMAGES = 64


def choose_device(config: ExperimentConfig, assigned: str | None = None) -> torch.device:
    """The device of the settings; ``assigned`` is the device Ray gave this actor ("cpu" or "cuda:0"), None without Ray.

    Raises:
        ConfigError: cuda is requested and not available.
    """
    return device_of(config.runtime.device, assigned)


def device_of(asked: str, assigned: str | None = None) -> torch.device:
    """As :func:`choose_device`, for a value of ``runtime.device``."""
    if asked == "cpu":
        return torch.device("cpu")
    available = torch.cuda.is_available() if assigned is None else assigned.startswith("cuda")
    if asked == "cuda" and not available:
        raise ConfigError("runtime.device is cuda but no GPU is available here: use cpu or auto, or give the actor num_gpus")
    device = torch.device(assigned or "cuda:0") if available else torch.device("cpu")
    prepare(device)
    return device


class HasTeacher(Protocol):
    """Settings that name a task and a teacher: an experiment's, or those of a data set's build."""

    @property
    def task(self) -> TaskConfig: ...

    @property
    def teacher(self) -> TeacherConfig: ...


def build_frozen_teacher(config: HasTeacher) -> FrozenTeacher:
    """The teacher with its weights and normalisation.

    Raises:
        TeacherError: neither the experiment nor the checkpoint's metadata give a normalisation, or the metadata say that
            it was trained for a different image shape or number of classes.
    """
    settings, task = config.teacher, config.task
    checkpoint = settings.weights
    metadata = _recorded(checkpoint)
    _require_same_task(config, metadata)
    if settings.normalization is not None:
        mean, std = settings.normalization.mean, settings.normalization.std
    else:
        mean, std = _recorded_normalization(checkpoint, metadata)
    return build_teacher(
        settings.model,
        task.num_classes,
        task.image_shape,
        mean,
        std,
        checkpoint,
        settings.classifier_head,
        settings.feature_layers,
    )


def _require_same_task(config: HasTeacher, metadata: dict[str, str]) -> None:
    """Checks the metadata of a ``train-teacher`` file: a clearer message than one on mismatched tensor shapes."""
    checkpoint, task = config.teacher.weights, config.task
    if metadata.get("task", task.kind) != task.kind:
        raise TeacherError(
            f"{checkpoint} was trained for {metadata['task']}, task.kind is {task.kind}: change one of them, or train a "
            f"teacher with task: {task.kind}"
        )
    if metadata.get("num_classes", str(task.num_classes)) != str(task.num_classes):
        raise TeacherError(
            f"{checkpoint} is for {metadata['num_classes']} classes, task.num_classes is {task.num_classes}: change one of them"
        )
    channels = json.loads(metadata.get("image_shape", str(list(task.image_shape))))[0]
    if channels != task.image_shape[0]:
        raise TeacherError(
            f"{checkpoint} is for {channels}-channel images, task.image_shape has {task.image_shape[0]}: change one of them"
        )


def _recorded_normalization(checkpoint: Path | None, metadata: dict[str, str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if checkpoint is not None and not checkpoint.is_file():
        raise CheckpointError(f"there is no weights file {checkpoint}: correct teacher.checkpoint, or create the file first")
    if "mean" not in metadata or "std" not in metadata:
        raise TeacherError(
            "teacher.normalization is missing and not in the checkpoint: give the mean and std of the images the "
            "teacher was trained on (mean 0 and std 1 if it took plain [0,1] images)"
        )
    return tuple(json.loads(metadata["mean"])), tuple(json.loads(metadata["std"]))


def audit(config: ExperimentConfig, teacher: FrozenTeacher) -> TeacherAudit:
    """Audits the teacher and rejects methods that need something it lacks.

    Raises:
        TeacherError: see ``audit_teacher``, ``require_positions`` and ``require_batch_norm``.
    """
    found = audit_teacher(teacher)
    require_positions(teacher, config.task.positions)
    refuse_unsuited(config, found)
    return found


def refuse_unsuited(config: ExperimentConfig, found: TeacherAudit) -> None:
    """Raises TeacherError if a method needs something that the audited teacher lacks."""
    for source in config.sources.values():
        method = METHODS.get(source.method)
        if method.needs_batch_norm and source.reads_batch_norm:
            require_batch_norm(found, source.method)
        if method.needs_gradient:
            require_input_gradient(found, source.method)
        elif source.boundary_attack is not None:
            require_input_gradient(found, "boundary_attack")


def build_student(config: ExperimentConfig, teacher: FrozenTeacher | None = None, name: str | None = None) -> nn.Module:
    """A newly initialised student: from the run's seed or its checkpoint. Identical in every process.

    It is the configured network as modified by its objective, which may use the teacher.

    Args:
        teacher: if the caller has it; otherwise built here if network or objective need it.
        name: which student; None: the first one.

    Raises:
        TeacherError: the teacher is to be pruned and cannot be.
        ConfigError: its few-shot method cannot take it.
    """
    name = config.student_name if name is None else name
    student = config.students[name]
    remake = OBJECTIVES.get(student.objective.kind).student
    uses_teacher = remake is not None or student.pruned is not None or student.few_shot is not None
    if uses_teacher and teacher is None:  # before the seed is set: building it draws random numbers too
        teacher = build_frozen_teacher(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.runtime.seed, "student", name))
        if student.pruned is None:
            network = build_classifier(config.model_of(name), config.task.num_classes, config.task.image_shape)
        else:
            assert teacher is not None
            network = _pruned(config, name, teacher)
        if student.checkpoint is not None:
            load_weights(network, student.checkpoint)
        _refuse_unfit(config, network, name)
        if student.few_shot is not None:
            assert teacher is not None
            FEW_SHOT.get(student.few_shot.kind).require(teacher, network)
        if remake is None:
            return network
        assert teacher is not None
        return remake(network, teacher, student)


def _pruned(config: ExperimentConfig, name: str, teacher: FrozenTeacher) -> nn.Module:
    """The teacher's network with the student's filters, from torch's global generator where its weights are not kept."""
    network = build_classifier(config.teacher.model, config.task.num_classes, config.task.image_shape)
    kept = pruned_filters(config, name, teacher)
    assert kept is not None
    keeps = config.students[name].keeps_filters
    if keeps:
        network.load_state_dict(teacher.model.state_dict())
    shrink(network, find_chain(network, config.task.image_shape), kept)
    return network if keeps else draw_anew(network)


def pruned_filters(config: ExperimentConfig, name: str, teacher: FrozenTeacher) -> Kept | None:
    """The teacher's filters that a student has; None of a student that is not the teacher pruned.

    Raises:
        TeacherError: the teacher cannot be pruned.
        ConfigError: ``pruned.layers`` names something else than convolutions.
    """
    pruned = config.students[name].pruned
    if pruned is None:
        return None
    chain = find_chain(teacher.model, config.task.image_shape)
    return strongest_filters(teacher.model, chain, pruned.ratio, pruned.layers)


@torch.no_grad()
def _refuse_unfit(config: ExperimentConfig, student: nn.Module, name: str) -> None:
    """A student's file is for the user's own code, so that its outputs are left as they are."""
    model = config.model_of(name)
    if ":" not in model:
        return
    if isinstance(student, ScriptedClassifier):
        raise ConfigError(
            f"students.{name}'s network {model!r} is a TorchScript program, which cannot be trained: name its code"
        )
    with evaluating(student):
        kind = kind_of(student(torch.rand(3, *config.task.image_shape)))
    if kind in ("one logit", "one probability"):
        raise ConfigError(f"students.{name}'s network {model!r} gives one output for two classes: let it give 2 logits")
    if kind == "probabilities":
        raise ConfigError(
            f"students.{name}'s network {model!r} gives probabilities, by a softmax at its end: distillation needs its logits, "
            "so leave the softmax out of the network"
        )


def build_synthesizer(
    config: ExperimentConfig, source: str, index: int, device: torch.device, collected: SyntheticBatch | None = None
) -> Synthesizer:
    """One generator of a source, with its own copies of the teacher and of the student it plays against.

    Args:
        collected: real images, if the run has any.
    """
    settings, student = config.sources[source], config.student_of(source)
    context = SynthesisContext(
        generator_id=generator_id(source, index),
        seed=derive_seed(config.runtime.seed, "generator", source, index),
        warmup_batches=config.schedule.warmup_batches,
        priority_temperature=config.students[student].objective.first_priority_temperature,
        bf16=config.runtime.bf16,
    )
    method = METHODS.get(settings.method)
    teacher = build_frozen_teacher(config)
    opponent = build_student(config, teacher, student) if method.needs_student else None
    synthesizer = method.build(settings, SynthesisParts(build_task(config.task), teacher, opponent, collected), context, device)
    if settings.low_loss_filter is not None:
        synthesizer = FilteredSynthesizer(synthesizer, settings.low_loss_filter)
    if settings.boundary_attack is None:
        return synthesizer
    return AttackedSynthesizer(synthesizer, settings, teacher, context, device)


def try_student(config: ExperimentConfig, teacher: FrozenTeacher, name: str, device: torch.device) -> list[str]:
    """Tries a student's first step, in part, before a run starts; what looks wrong with it (see ``student_trial``).

    Raises:
        TeacherError, ConfigError: it, its objective or torch.compile would fail.
    """
    # The actors of a cluster may run on other machines, whose compilers cannot be tried from here.
    if config.students[name].compile and (config.runtime.runner == "local" or config.runtime.address is None):
        require_compiler(device, f"students.{name}.compile")
    opponent = any(
        METHODS.get(source.method).needs_student and config.student_of(key) == name for key, source in config.sources.items()
    )
    return student_trial.try_student(build_distiller(config, device, name, teacher), name, opponent)


def build_distiller(
    config: ExperimentConfig, device: torch.device, name: str | None = None, teacher: FrozenTeacher | None = None
) -> Distiller:
    """A student worker's distiller; the objective's trained layers are initialised identically in every process.

    Args:
        name: which student's; None: the first one's.
        teacher: if the caller has it.
    """
    name = config.student_name if name is None else name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.runtime.seed, "objective", name))
        teacher = build_frozen_teacher(config) if teacher is None else teacher
        student = build_student(config, teacher, name)
        total_steps = config.schedule.total_steps
        return Distiller(config.students[name], teacher, student, total_steps, device, bf16=config.runtime.bf16)


def class_names(weights: Path | None, model: str = "") -> tuple[str, ...] | None:
    """The class names in the metadata of a teacher's weights, or else in the configuration of an ``hf:`` model, if any."""
    recorded = tuple(json.loads(_recorded(weights).get("classes", "[]")))
    return recorded or (open_hub_folder(model).classes if model.startswith(PREFIX) else None)


def recorded_task(weights: Path | None) -> str | None:
    """The kind of task in the metadata of a teacher's weights, if any."""
    return _recorded(weights).get("task")


def _recorded(weights: Path | None) -> dict[str, str]:
    """The metadata of a teacher's weights; none if they are of a format without."""
    return {} if weights is None or weights.suffix != ".safetensors" else read_metadata(weights)


def warnings_on(config: ExperimentConfig, teacher: FrozenTeacher, evaluator: Evaluator, device: torch.device) -> list[str]:
    """What some of the evaluation images show to be wrong with the teacher, or with the data."""
    weights = config.teacher.weights
    names = class_names(weights, config.teacher.model)
    told = list(look_at(teacher.to(device), evaluator.dataset, names, _recorded(weights), device, evaluator.measure))
    images = evaluator.dataset.images
    some = torch.from_numpy(images[:: max(1, len(images) // NUM_WARNING_IMAGES)]).to(device)
    return told + list(teacher_warnings.warnings_on(teacher, pixels_of(some)))


def build_evaluator(config: ExperimentConfig, teacher: FrozenTeacher, device: torch.device) -> Evaluator | None:
    """Reads the evaluation data; None if the experiment has none."""
    if config.evaluation is None:
        return None
    task = build_task(config.task)
    dataset = task.load(config.evaluation.dataset, class_names(config.teacher.weights, config.teacher.model))
    precision = torch.bfloat16 if config.runtime.bf16 and supports_bfloat16(device) else None
    return task.evaluator(dataset, teacher, config.evaluation.batch_size, device, precision)


def build_held_out(config: ExperimentConfig, teacher: FrozenTeacher, device: torch.device) -> HeldOutEvaluator | None:
    """Reads the held-out images; None if the experiment has none.

    Raises:
        DataError: there is no such file, or its images do not fit the task.
    """
    if config.held_out is None:
        return None
    from raydfkd.data.collected import read_images

    path = config.held_out.path
    images = read_images(path, "held_out.path").images
    if images.shape[1:] != tuple(config.task.image_shape):
        shapes = f"{list(images.shape[1:])}, task.image_shape is {list(config.task.image_shape)}"
        raise DataError(f"held_out.path {path} has images of shape {shapes}: give images of the task's shape")
    return HeldOutEvaluator(images, teacher, config.held_out.batch_size, device, config.runtime.bf16)
