"""From a finished run's last checkpoint and metrics to its outcome: weights, result.json, and the report's arrays."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import nn

from raydfkd.distillation.distiller import Distiller
from raydfkd.evaluation.accuracy import Evaluator
from raydfkd.evaluation.held_out_agreement import HeldOutEvaluator
from raydfkd.evaluation.mask_samples import mask_samples
from raydfkd.models.classifiers.pruning import widths_of
from raydfkd.models.precision import autocast
from raydfkd.models.shared_classifier import SharedClassifierStudent, describe_shared_classifier
from raydfkd.models.teachers.teacher import FrozenTeacher, pixels_of
from raydfkd.models.weights import read_metadata, save_weights
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig, source_of
from raydfkd.pipeline.run import checkpoints, collecting
from raydfkd.pipeline.run.alignment_arrays import alignment_arrays
from raydfkd.pipeline.run.exchange import Exchange
from raydfkd.pipeline.run.exchange_state import build_exchange, load_exchange
from raydfkd.pipeline.run.student_loop import normalized
from raydfkd.run_dir import RunDir
from raydfkd.run_records import RunTotals
from raydfkd.tasks import build_task
from raydfkd.types import PINNED_SOURCES, SyntheticBatch

IMAGES_PER_CLASS = 10
FEATURE_SAMPLES = 600


def finish(config: ExperimentConfig, run: RunDir, elapsed_s: float, device: torch.device) -> dict[str, Any]:
    """Evaluates the last checkpoint, and writes weights, analysis and result.json; returns the result."""
    folder = run.latest_checkpoint()
    assert folder is not None, "a finished run has a checkpoint"
    exchange = build_exchange(config)
    load_exchange(folder, exchange)
    teacher = builder.build_frozen_teacher(config).to(device)
    evaluator = builder.build_evaluator(config, teacher, device)
    held_out = builder.build_held_out(config, teacher, device) if evaluator is None else None
    students: dict[str, dict[str, Any]] = {}
    networks, trained_on = {"teacher": teacher}, {}
    for name in config.students:
        distiller = builder.build_distiller(config, device, name)
        checkpoints.load_student(folder, name, distiller)
        trained_on[name] = distiller.trained_on
        _save_student(config, run, name, distiller)
        students[name] = _figures(config, name, distiller, evaluator, held_out)
        networks[f"student {name}"] = _frozen(distiller.student, teacher)
    _save_analysis(run, exchange, teacher, evaluator, device, config.runtime.bf16)
    _save_planes(run, networks, exchange, evaluator, device, config.runtime.bf16)
    _save_alignment(config, run, exchange, teacher, evaluator, device)
    if config.task.positions:
        images, _, sources = _live_images(exchange)
        real = None if evaluator is None else evaluator.dataset
        samples = mask_samples(networks, images, sources, real, device, config.runtime.bf16)
        np.savez_compressed(run.samples / "masks.npz", **samples)  # type: ignore[arg-type]
    result = _result(config, run, students, exchange, teacher, evaluator, elapsed_s, trained_on[config.student_name])
    run.write_result(result)
    if evaluator is not None:
        run.update_manifest(classes=list(evaluator.dataset.classes))
    return result


def _save_student(config: ExperimentConfig, run: RunDir, name: str, distiller: Distiller) -> None:
    normalization = distiller.teacher.normalization
    pruned = builder.pruned_filters(config, name, distiller.teacher)
    metadata = {
        "model": config.teacher.model if pruned is not None else config.model_of(name),
        "num_classes": str(config.task.num_classes),
        "image_shape": str(list(config.task.image_shape)),
        "mean": str(normalization.mean.flatten().tolist()),
        "std": str(normalization.std.flatten().tolist()),
    }
    classes = builder.class_names(config.teacher.weights, config.teacher.model)
    if classes is not None:
        metadata["classes"] = json.dumps(classes)
    if pruned is not None:
        metadata["pruned"] = widths_of(pruned)
    if isinstance(distiller.student, SharedClassifierStudent):
        metadata["shared_classifier"] = describe_shared_classifier(distiller.student)
    other = None if name == config.student_name else name
    save_weights(distiller.student, run.student_path(other), metadata)
    save_weights(distiller.student_ema, run.student_path(other, ema=True), metadata)


def _figures(
    config: ExperimentConfig, name: str, distiller: Distiller, evaluator: Evaluator | None, held_out: HeldOutEvaluator | None
) -> dict[str, Any]:
    """A student's entry in result.json. Its agreement is on the labelled images, or else on the held-out ones."""
    last = ema = None
    agreement = None if held_out is None else held_out.measure(distiller.student)[0]
    if evaluator is not None:
        last = evaluator.evaluate(normalized(distiller.teacher, distiller.student))
        ema = evaluator.evaluate(normalized(distiller.teacher, distiller.student_ema))
    return {
        "model": config.model_of(name),
        "params": count_params(distiller.student),
        "metric_last": None if last is None else last.metric,
        "metric_ema": None if ema is None else ema.metric,
        "agreement": agreement if last is None else last.agreement,
        "objective": config.students[name].objective.kind,
        "images_distilled": distiller.num_steps * config.students[name].batch_size,
        "student_steps": distiller.num_steps,
        **({} if last is None else last.details),
    }


def _result(
    config: ExperimentConfig,
    run: RunDir,
    students: dict[str, dict[str, Any]],
    exchange: Exchange,
    teacher: FrozenTeacher,
    evaluator: Evaluator | None,
    elapsed_s: float,
    trained_on: str,
) -> dict[str, Any]:
    first = students[config.student_name]
    task = build_task(config.task)
    return {
        "method": "+".join(sorted({source.method for source in config.sources.values()})) or "collected",
        "seed": config.runtime.seed,
        "schedule": config.schedule.mode,
        "runner": config.runtime.runner,
        "teacher": {
            "model": config.teacher.model,
            "sha256": teacher.state_sha256(),
            "params": count_params(teacher.model),
            "metric": None if evaluator is None or evaluator.teacher is None else evaluator.teacher.metric,
            **({} if evaluator is None or evaluator.teacher is None else evaluator.teacher.details),
        },
        "student": {name: first[name] for name in ("model", "params", "metric_last", "metric_ema", "agreement")},
        "students": students,
        "metric_name": task.metric_name,
        "metric_label": task.metric_label,
        "end_to_end_s": elapsed_s,
        **RunTotals.of(run.metrics()).as_result(),
        "images_synthesized": exchange.buffer.num_inserts,
        "images_distilled": sum(student["images_distilled"] for student in students.values()),
        "student_steps": first["student_steps"],
        "class_entropy": exchange.buffer.stats()["class_entropy"],
        "device": trained_on,
        **_provenance(config, run),
    }


def _provenance(config: ExperimentConfig, run: RunDir) -> dict[str, Any]:
    """Where the figures come from: the paper's row, the data read, the teacher's file, the commit and the machine."""
    manifest = run.manifest()
    return {
        "reproduces": None if config.reproduces is None else config.reproduces.recorded(),
        "teacher_file": _teacher_file(config),
        "data": manifest.get("data_splits_read", []),
        "commit": manifest.get("commit"),
        "hardware": manifest.get("hardware"),
    }


def _teacher_file(config: ExperimentConfig) -> dict[str, Any] | None:
    """The name of the teacher's file, and what its training recorded in it (epochs, split, accuracy, ...)."""
    path = config.teacher.weights
    if path is None:
        return None
    recorded = read_metadata(path) if path.suffix == ".safetensors" else {}
    return {"name": path.name, **{key: value for key, value in recorded.items() if key not in ("mean", "std", "classes")}}


def count_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _save_analysis(
    run: RunDir, exchange: Exchange, teacher: FrozenTeacher, evaluator: Evaluator | None, device: torch.device, bf16: bool
) -> None:
    np.savez_compressed(run.analysis / "buffer.npz", **exchange.buffer.analysis())  # type: ignore[arg-type]
    images, classes, sources = _live_images(exchange)
    rows = [np.flatnonzero((classes == k) & (sources == s)) for s in np.unique(sources) for k in np.unique(classes)]
    chosen = np.concatenate([found[-IMAGES_PER_CLASS:] for found in rows])
    np.savez_compressed(
        run.samples / "by_class.npz", images=images[chosen], teacher_class=classes[chosen], source=sources[chosen]
    )
    spread = _spread(images)
    arrays = {
        "synthetic_features": _features(teacher, images[spread], device, bf16),
        "synthetic_class": classes[spread],
    }
    if evaluator is not None:
        real = evaluator.dataset
        spread = _spread(real.images)
        arrays |= {
            "real_features": _features(teacher, real.images[spread], device, bf16),
            "real_class": real.image_classes[spread],
        }
    if teacher.has_classifier_head:
        np.savez_compressed(run.analysis / "features.npz", **arrays)


def _save_planes(
    run: RunDir,
    networks: dict[str, FrozenTeacher],
    exchange: Exchange,
    evaluator: Evaluator | None,
    device: torch.device,
    bf16: bool,
) -> None:
    """Of each network with two features: these features, and the head that divides their plane among the classes."""
    heads = {name: head for name, network in networks.items() if (head := _head_of_plane(network)) is not None}
    if not heads:
        return
    images, *_ = _live_images(exchange)
    sets = {"synthetic": images[_spread(images)]}
    biases = [torch.zeros_like(h.weight[:, 0]) if h.bias is None else h.bias.detach() for h in heads.values()]
    arrays = {
        "network": np.array([*heads]),
        "weight": torch.stack([head.weight.detach() for head in heads.values()]).cpu().numpy(),
        "bias": torch.stack(biases).cpu().numpy(),
    }
    if evaluator is not None:
        real = evaluator.dataset
        spread = _spread(real.images)
        sets["real"], arrays["real_class"] = real.images[spread], real.image_classes[spread]
    for name, shown in sets.items():
        arrays[f"{name}_features"] = np.stack([_features(networks[which], shown, device, bf16) for which in heads])
    np.savez_compressed(run.analysis / "planes.npz", **arrays)  # type: ignore[arg-type]


def _save_alignment(
    config: ExperimentConfig,
    run: RunDir,
    exchange: Exchange,
    teacher: FrozenTeacher,
    evaluator: Evaluator | None,
    device: torch.device,
) -> None:
    """Of the sources with feature alignment: their images' features and those of the collected ones."""
    made = _made_by(exchange, [name for name, source in config.sources.items() if source.needs_prototypes])
    if sum(len(batch) for _, batch in made) < 2 or not teacher.has_classifier_head:
        return
    prototypes = collecting.read(run)
    assert prototypes is not None, "an experiment with feature alignment has collected images"

    def features(images: np.ndarray) -> np.ndarray:  # of a copy: what is read from a file cannot be written to
        return _features(teacher, np.array(images), device, config.runtime.bf16)

    real = None
    if evaluator is not None:
        spread = _spread(evaluator.dataset.images)
        real = features(evaluator.dataset.images[spread]), evaluator.dataset.image_classes[spread]
    arrays = alignment_arrays(prototypes, made, real, teacher.num_classes, features)
    np.savez_compressed(run.analysis / "alignment.npz", **arrays)  # type: ignore[arg-type]


def _made_by(exchange: Exchange, sources: list[str]) -> list[tuple[int, SyntheticBatch]]:
    """(number of the batch in the run, its live images) of what generators of these sources made, in order."""
    made, pinned = [], 0
    for view in exchange.buffer.shards_after(-1):
        pinned += view.payload.source in PINNED_SOURCES
        if source_of(view.payload.generator_id) in sources:
            made.append((view.shard_id - pinned, view.payload.take(view.slots >= 0)))
    return made


def _head_of_plane(network: FrozenTeacher) -> nn.Linear | None:
    """The linear head of a network with two features, None of any other."""
    head = network.classifier_head if network.has_classifier_head else None
    return head if isinstance(head, nn.Linear) and head.in_features == 2 else None


def _frozen(student: nn.Module, teacher: FrozenTeacher) -> FrozenTeacher:
    """A student that takes the images its teacher takes and whose features are read in the same way."""
    mean, std = (x.flatten().tolist() for x in (teacher.normalization.mean, teacher.normalization.std))
    return FrozenTeacher(student, teacher.num_classes, teacher.image_shape, mean, std).to(teacher.normalization.mean.device)


def _spread(images: np.ndarray) -> np.ndarray:
    """Which images have their features saved: at most ``FEATURE_SAMPLES``, evenly spaced."""
    return np.linspace(0, len(images) - 1, min(FEATURE_SAMPLES, len(images))).astype(int)


def _live_images(exchange: Exchange) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 [n,C,H,W] of all tables, their classes by the teacher, and their sources."""
    parts = [view.payload.take(view.slots >= 0) for view in exchange.buffer.shards_after(-1)]
    live = SyntheticBatch.concat(parts, priorities=None, class_histogram=None)
    return live.images, live.teacher_class, np.concatenate([np.full(len(part), part.source) for part in parts])


def _features(teacher: FrozenTeacher, images: np.ndarray, device: torch.device, bf16: bool) -> np.ndarray:
    if not teacher.has_classifier_head:
        return np.empty((0, 0), np.float32)
    parts = []
    with torch.no_grad(), autocast(device, bf16):
        for chunk in torch.from_numpy(images).split(200):
            features = teacher.forward_features(pixels_of(chunk.to(device)))[1].float()
            pooled = features.flatten(2).mean(2) if teacher.positions else features.flatten(1)
            parts.append(pooled.cpu().numpy())
    return np.concatenate(parts)
