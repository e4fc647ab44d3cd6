"""Every metric of a run, declared once: its record, label, unit, plot in the report, Prometheus name and dashboard panel.

The recorder, the report, live progress, ``raydfkd status``, the actors' Prometheus export and the Grafana dashboard iterate
:data:`METRICS`. To add a metric, emit its field where it is measured and declare it here in one entry. Imports neither torch
nor ray.

On Ray the actors export metrics through ``ray.util.metrics``; Prometheus then sees each with ``ray_`` before its name (and
``_total`` after a counter's). Tags are few: ``run`` on all, and ``source``, ``generator`` or ``student`` by kind of record.
Nothing is exported for single images. In TensorBoard every number of a record is a curve, also those that a method reports of
its own and does not declare here (its losses, and what its :class:`Figure` s name).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raydfkd.metric_types import Export, Figure, Metric, Panel, Plot

__all__ = ["METRICS", "Export", "Figure", "Metric", "Panel", "Plot"]


def _gauge(name: str, panel: Panel | None = None) -> Export:
    return Export(name, "gauge", panel)


def _counter(name: str, panel: Panel | None = None, increase_over: str = "") -> Export:
    return Export(name, "counter", panel, increase_over)


_GENERATORS = Panel("Generators", "Wanted, running, and waiting for resources, by source; running falls where one died.")
_IMAGES = Panel("Images per second", "Synthesized by all generators, and distilled by all students.", total=True)
_WAITS = Panel(
    "Waiting, by side and cause",
    "Seconds waited per second. The side that waits shows what is short: students that wait for data need more generators; "
    "where generators wait for the limiter, there are too many of them.",
)
_AGES = Panel("Age of images", "In batches inserted since: of the stored images, and of those that students drew.", width=6)
_BY_STEP, _WAIT = Plot("distillation", over="steps", smooth=True), Plot("waits")

# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("generators", "target", "Generators wanted", "Generators wanted, by source.", short="wanted",
           export=_gauge("raydfkd_generators_wanted", _GENERATORS)),
    Metric("generators", "running", "Generators running", "Generators that run, by source.", short="running",
           export=_gauge("raydfkd_generators_running", _GENERATORS)),
    Metric("generators", "starting", "Generators starting", "Generators that build their networks.", short="starting"),
    Metric("generators", "pending", "Generators pending", "Generators that wait for a place, by source.", short="pending",
           export=_gauge("raydfkd_generators_pending", _GENERATORS)),
    Metric("generators", "draining", "Generators draining", "Generators that finish their last batch.", short="draining"),

    Metric("preparation", "done", "Preparation steps done", "Steps done of a generator's work before its first batch."),
    Metric("preparation", "total", "Preparation steps", "All steps of a generator's work before its first batch."),
    Metric("preparation", "prepare_s", "Seconds of preparation", "Seconds of this work since the last record.", "s"),

    Metric("few_shot", "done", "Few-shot steps done", "Steps done of a student's training on the collected images alone."),
    Metric("few_shot", "total", "Few-shot steps", "All steps of it: layers (fskd) or epochs (netgraft)."),
    Metric("few_shot", "few_shot_s", "Seconds of few-shot training", "Seconds of this training since the last record.", "s"),
    Metric("few_shot", "error_before", "Layer's error before its fit (FSKD)",
           "Difference from the teacher's output of the layer, relative to its norm, with the layers before corrected.",
           "ratio", plot=Plot("distillation", from_zero=True)),
    Metric("few_shot", "error_after", "Layer's error after its fit (FSKD)", "The same when the layer is fitted.", "ratio",
           plot=Plot("distillation", from_zero=True)),
    Metric("few_shot", "loss", "Grafting loss (NetGraft)",
           "Squared distance from the teacher's normalised logits, mean of an image.", scale="log",
           plot=Plot("distillation")),
    Metric("few_shot", "first_block", "First grafted block", "The first of the blocks that are trained together, from 0."),
    Metric("few_shot", "last_block", "Last grafted block", "The last of them; the classifier comes after the blocks."),

    Metric("synthesis", "num_images", "Images synthesized", "Images synthesized and inserted into the buffer, by generator.",
           "images", short="synthesized", plot=Plot("throughput", smooth=True, from_zero=True, rate=True),
           export=_counter("raydfkd_images_synthesized", _IMAGES)),
    Metric("synthesis", "student_version", "Version of the student weights", "Weights that the generator had for the batch."),
    Metric("synthesis", "batch_class_entropy", "Relative class entropy of a batch",
           "Entropy of the teacher's classes of a new batch over the most that it can have, in [0,1].", "ratio"),
    Metric("synthesis", "batch_repeated", "Repeated images",
           "Share of a new batch's images that look like another one in it.", "fraction"),
    Metric("synthesis", "loss", "Synthesis loss", "Sum of the synthesizer's weighted losses.", short="synthesis_loss"),
    Metric("synthesis", "seconds", "Seconds per batch", "Seconds spent synthesizing, by generator.", "s",
           plot=Plot("synthesis", smooth=True, from_zero=True),
           export=_counter("raydfkd_synthesis_seconds", Panel("Generators at work", "Seconds of synthesis per second: how many "
                           "generators synthesize images and do not wait."))),
    Metric("synthesis", "generator_wait_limiter_s", "waiting for the rate limiter",
           "Seconds that generators waited for the rate limiter, by generator.", "s", short="limiter", plot=_WAIT,
           export=_counter("raydfkd_generator_wait_limiter_seconds", _WAITS)),
    Metric("synthesis", "generator_wait_weights_s", "waiting for student weights",
           "Seconds that generators waited for student weights, by generator.", "s", short="weights", plot=_WAIT,
           export=_counter("raydfkd_generator_wait_weights_seconds", _WAITS)),
    Metric("synthesis", "feature_distance", "Distance of synthetic features from those of the prototypes",
           "Squared Fréchet distance between both sets' features, mean over classes.", scale="log",
           plot=Plot("alignment", smooth=True)),
    Metric("synthesis", "discriminator_real_accuracy", "Discriminator's accuracy, prototypes",
           "Share of prototypes with their class that it takes for such.", "fraction", short="prototypes with their class",
           plot=Plot("discriminator", smooth=True)),
    Metric("synthesis", "discriminator_synthetic_accuracy", "Discriminator's accuracy, synthetic images",
           "Share of synthetic images with theirs that it tells from prototypes.", "fraction", short="synthetic images",
           plot=Plot("discriminator", smooth=True)),
    Metric("synthesis", "discriminator_mismatched_accuracy", "Discriminator's accuracy, mismatched classes",
           "Share of prototypes with another class that it rejects.", "fraction", short="prototypes with another class",
           plot=Plot("discriminator", smooth=True)),

    Metric("distillation", "kd_loss", "Distillation loss", "Mean distillation loss since the last record, by student.",
           short="kd_loss", scale="log", plot=_BY_STEP, export=_gauge("raydfkd_kd_loss"), status="kd_loss"),
    Metric("distillation", "lr", "Learning rate", "Learning rate of the last step.", plot=Plot("distillation", over="steps")),
    Metric("distillation", "grad_norm", "Gradient norm", "Mean norm of the student's gradient.", scale="log", plot=_BY_STEP),
    Metric("distillation", "agreement", "Agreement with the teacher on training batches",
           "Share of the images drawn on which student and teacher agree.", "fraction", plot=_BY_STEP),
    Metric("distillation", "importance_weight_mean", "Mean importance weight", "Mean importance weight of the images drawn.",
           plot=_BY_STEP),
    Metric("distillation", "item_age", "Age of drawn images, in batches inserted since",
           "Mean age of drawn images, in batches inserted since, by student.", "batches", short="drawn", plot=_BY_STEP,
           export=_gauge("raydfkd_drawn_item_age_batches", _AGES)),
    Metric("distillation", "step_s", "Seconds per step", "Mean seconds of computation per step.", "s"),

    Metric("throughput", "step", "Student steps", "Optimizer steps done, by student.", "steps",
           export=_gauge("raydfkd_student_steps")),
    Metric("throughput", "images_distilled", "Images distilled", "Images that the student trained on so far.", "images",
           status="images_distilled"),
    Metric("throughput", "images_distilled_since", "Images distilled since the last record",
           "Images that students trained on, by student.", "images", short="distilled",
           export=_counter("raydfkd_images_distilled", _IMAGES)),
    Metric("throughput", "distilled_per_s", "Images distilled per second", "Mean rate since the last record.", "images/s",
           short="distilled", plot=Plot("throughput", smooth=True, from_zero=True), status="images_distilled_per_s"),
    Metric("throughput", "student_wait_data_s", "waiting for data",
           "Seconds that students waited for images to arrive, by student.", "s", short="data", plot=_WAIT,
           export=_counter("raydfkd_student_wait_data_seconds", _WAITS)),
    Metric("throughput", "student_wait_limiter_s", "waiting for the rate limiter",
           "Seconds that students waited for the rate limiter, by student.", "s", short="limiter", plot=_WAIT,
           export=_counter("raydfkd_student_wait_limiter_seconds", _WAITS)),
    Metric("throughput", "student_wait_students_s", "waiting for other students, at a checkpoint",
           "Seconds that students waited for others at checkpoints, by student.", "s", short="students", plot=_WAIT,
           export=_counter("raydfkd_student_wait_students_seconds", _WAITS)),
    Metric("throughput", "rss_bytes", "Resident memory", "Resident memory of the student's process.", "bytes",
           plot=Plot("throughput", from_zero=True)),

    Metric("replay", "size", "Images in the buffer", "Images in the buffer.", "images",
           plot=Plot("throughput", from_zero=True, limit="capacity"), export=_gauge("raydfkd_buffer_images"),
           status="buffer_images"),
    Metric("replay", "capacity", "Capacity of the buffer", "Images that the buffer can hold.", "images",
           status="buffer_capacity"),
    Metric("replay", "fill", "Fill of the buffer", "Images in the buffer over its capacity, in [0,1].", "fraction",
           export=_gauge("raydfkd_buffer_fill_ratio"), status="buffer_fill"),
    Metric("replay", "bytes", "Bytes of the buffer", "Bytes of the batches that the buffer keeps.", "bytes",
           export=_gauge("raydfkd_shard_bytes")),
    Metric("replay", "class_entropy", "Relative class entropy",
           "Entropy of the buffer's classes over that of equal shares, in [0,1].", "ratio", plot=Plot("classes"),
           export=_gauge("raydfkd_class_entropy_ratio"), status="class_entropy"),
    Metric("replay", "priority_mean", "Mean priority", "Mean raw priority of the images in the buffer.",
           export=_gauge("raydfkd_priority_mean")),
    Metric("replay", "priority_max", "Largest priority", "Largest raw priority in the buffer."),
    Metric("replay", "item_age_mean", "Age of stored images",
           "Mean age of the images in the buffer, in batches inserted since.", "batches", short="stored",
           export=_gauge("raydfkd_item_age_batches", _AGES)),
    Metric("replay", "staleness_rounds", "Lag of the generators' student, in rounds",
           "Rounds by which the weights behind the buffer's images are older than the newest.", "rounds", short="staleness",
           plot=Plot("synthesis", smooth=True, from_zero=True), export=_gauge("raydfkd_staleness_rounds")),
    Metric("replay", "pinned_fraction", "Pinned share", "Share of a training batch drawn from pinned images.", "fraction"),
    Metric("replay", "inserts", "Images inserted", "Images inserted so far.", "images"),
    Metric("replay", "samples", "Images drawn", "Images drawn so far.", "images"),
    Metric("replay", "dropped_updates", "Dropped priorities", "New priorities of images that had left the buffer.", "images"),
    Metric("replay", "invalid_updates", "Invalid priorities", "New priorities that were not finite or negative.", "images"),

    Metric("evaluation", "metric_last", "Student, last", "Figure of merit of the last weights.", "fraction", short="last",
           status="metric_last"),
    Metric("evaluation", "metric_ema", "Student, EMA", "Figure of merit of the averaged weights.", "fraction", short="EMA",
           status="metric_ema"),
    Metric("evaluation", "agreement", "Agreement", "Share of the evaluation images on which student and teacher agree.",
           "fraction"),

    Metric("evaluation", "pixel_accuracy_last", "Pixel accuracy, last", "Share of pixels classified rightly, last weights.",
           "fraction"),
    Metric("evaluation", "pixel_accuracy_ema", "Pixel accuracy, EMA", "Share of pixels classified rightly, averaged weights.",
           "fraction"),

    Metric("held_out", "num_images", "Held-out images", "Images measured on.", "images"),
    Metric("held_out", "agreement_last", "Held-out agreement, last", "Share of equal decisions, last weights.", "fraction"),
    Metric("held_out", "agreement_ema", "Held-out agreement, EMA", "Share of equal decisions, averaged weights.", "fraction"),
    Metric("held_out", "kl_last", "Held-out divergence, last", "KL divergence from the teacher, last weights.", "nats"),
    Metric("held_out", "kl_ema", "Held-out divergence, EMA", "KL divergence from the teacher, averaged weights.", "nats"),

    Metric("event", "restart", "Restarts", "Actors and student groups that were restarted.",
           export=_counter("raydfkd_restarts", increase_over="10m")),

    Metric("result", "teacher.metric", "teacher accuracy", "Figure of merit of the teacher.", "fraction"),
    Metric("result", "student.metric_last", "student accuracy, last", "That of the student's last weights.", "fraction",
           short="accuracy, last"),
    Metric("result", "student.metric_ema", "student accuracy, EMA", "That of the student's averaged weights.", "fraction",
           short="accuracy, EMA"),
    Metric("result", "points_to_teacher", "last student against teacher", "Difference in percentage points.", "points"),
    Metric("result", "student.agreement", "agreement with the teacher", "Share of equal decisions.", "fraction",
           short="agreement"),
    Metric("result", "teacher.params", "teacher parameters", "Number of its parameters.", "parameters"),
    Metric("result", "student.params", "student parameters", "Number of its parameters.", "parameters", short="parameters"),
    Metric("result", "size_ratio", "times smaller", "Teacher parameters over student parameters.", "times",
           short="smaller by"),
    Metric("result", "end_to_end_s", "end to end", "Wall-clock time of the run.", "s"),
    Metric("result", "synthesis_s", "time in synthesis", "Summed over generators.", "s", short="synthesis"),
    Metric("result", "distillation_s", "time in distillation", "Summed over students.", "s", short="distillation"),
    Metric("result", "student_steps", "student steps", "Optimizer steps.", "steps", short="steps"),
    Metric("result", "images_synthesized", "images synthesized", "Images inserted into the buffer.", "images"),
    Metric("result", "images_distilled", "images distilled", "Images that students trained on.", "images"),
    Metric("result", "images_synthesized_per_s", "images/s synthesized", "Over the whole run.", "images/s"),
    Metric("result", "images_distilled_per_s", "images/s distilled", "Over the whole run.", "images/s"),
    Metric("result", "class_entropy", "class entropy of the buffer", "Relative to equal shares.", "ratio",
           short="class entropy"),
    Metric("result", "student_wait_fraction", "student waits", "Share of the students' time.", "fraction"),
    Metric("result", "generator_wait_fraction", "generators wait", "Share of the generators' time.", "fraction"),
    Metric("result", "restarts", "restarts", "Actors and student groups that were restarted.", "restarts"),
)
# fmt: on

Reading = tuple[str, dict[str, str], float]
"""Prometheus name, tags besides ``run``, and the value to set (gauge) or to add (counter)."""

STUDENT_KINDS = ("few_shot", "distillation", "throughput", "evaluation", "held_out")
"""Kinds of record of which each student has its own."""
_OWNER_FIELDS = {
    "synthesis": "generator_id",
    "preparation": "generator_id",
    "generators": "source",
    **dict.fromkeys(STUDENT_KINDS, "student"),
}
_TAGS: dict[str | None, tuple[str, ...]] = {
    "generator_id": ("source", "generator"),
    "source": ("source",),
    "student": ("student",),
    None: (),
}
_NO_METRICS = ("kind", "step", "time_s")


def of_kind(kind: str) -> tuple[Metric, ...]:
    """The metrics of a kind of record."""
    return tuple(metric for metric in METRICS if metric.kind == kind)


def of_section(section: str) -> tuple[Metric, ...]:
    """The metrics that a section of the report plots."""
    return tuple(metric for metric in METRICS if metric.plot is not None and metric.plot.section == section)


def exported() -> tuple[tuple[Metric, Export], ...]:
    """The metrics that Prometheus gets."""
    return tuple((metric, metric.export) for metric in METRICS if metric.export is not None)


def in_status(of_students: bool) -> tuple[Metric, ...]:
    """The metrics in ``raydfkd status --json``, of each student or of the run."""
    return tuple(metric for metric in METRICS if metric.status and (owner_field(metric.kind) == "student") is of_students)


def find(kind: str, key: str) -> Metric:
    """The metric of a record's field.

    Raises:
        KeyError: it is not declared.
    """
    for metric in METRICS:
        if (metric.kind, metric.key) == (kind, key):
            return metric
    raise KeyError(f"{kind} records have no metric {key!r}")


def owner_field(kind: str) -> str | None:
    """The field of such a record that names whose it is; None: the run's."""
    return _OWNER_FIELDS.get(kind)


def tags_of(kind: str) -> tuple[str, ...]:
    """The names of the tags, besides ``run``, of the metrics of a kind of record."""
    return _TAGS[owner_field(kind)]


def waits_of(kind: str) -> tuple[Metric, ...]:
    """The waits by cause: of students in ``throughput`` records, of generators in ``synthesis`` records."""
    return tuple(metric for metric in of_section("waits") if metric.kind == kind)


def waited_s(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Seconds waited in one record, by the field of each cause that it has."""
    found = {metric.key: values.get(metric.key) for metric in waits_of(kind)}
    return {key: float(value) for key, value in found.items() if isinstance(value, int | float)}


def readings(kind: str, step: int, values: Mapping[str, Any], student: str) -> Iterator[Reading]:
    """The exported metrics of one record.

    Args:
        kind, step, values: of the record, see ``run_dir``.
        student: whose record it is, where it does not say so itself.
    """
    tags = _tags(kind, values, student)
    for metric in of_kind(kind):
        value = step if metric.key == "step" else values.get(metric.key)
        if metric.export is not None and isinstance(value, int | float):
            yield metric.export.name, tags, float(value)


def _tags(kind: str, values: Mapping[str, Any], student: str) -> dict[str, str]:
    owner = owner_field(kind)
    if owner == "generator_id":
        generator = str(values[owner])
        return {"source": generator.rpartition("-")[0], "generator": generator}
    if owner == "source":
        return {"source": str(values[owner])}
    return {} if owner is None else {owner: str(values.get(owner, student))}


def scalars(record: Mapping[str, Any], by_student: bool) -> Iterator[tuple[str, float]]:
    """(curve, value) of every number in a record, for TensorBoard: ``kind/field``, with the generator or source in between if
    the record has one, and with the student if ``by_student``. An event has no curves.
    """
    kind = record["kind"]
    if kind == "event":
        return
    owner = owner_field(kind)
    name = None if owner is None or (owner == "student" and not by_student) else record.get(owner)
    group = kind if name is None else f"{kind}/{name}"
    for key, value in record.items():
        if key not in _NO_METRICS and isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{group}/{key}", value


def is_loss(key: str) -> bool:
    """Whether a ``synthesis`` or ``preparation`` field is a loss of the method's; the report plots all of them."""
    return key == "loss" or key.endswith("_loss")
