"""Every metric that a run exports, and from which record it comes. Imports neither torch nor ray.

On Ray the actors export them through ``ray.util.metrics``; Prometheus then sees each with ``ray_`` before its name (and
``_total`` behind a counter's). The same values stand in metrics.jsonl and in TensorBoard, under the records' own names. Tags
are few: ``run`` on all, and ``source``, ``generator`` or ``student`` where one applies. Nothing is exported for single images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    title: str
    curves: dict[str, str]
    percent: bool = False


METRICS: dict[str, tuple[str, str]] = {
    "raydfkd_images_made": ("counter", "Images inserted into the buffer, by generator."),
    "raydfkd_synthesis_seconds": ("counter", "Seconds of making batches, by generator."),
    "raydfkd_generator_wait_limiter_seconds": ("counter", "Seconds that generators waited for the rate limiter, by generator."),
    "raydfkd_generator_wait_weights_seconds": ("counter", "Seconds that generators waited for student weights, by generator."),
    "raydfkd_images_eaten": ("counter", "Images that students trained on, by student."),
    "raydfkd_student_steps": ("gauge", "Optimizer steps done, by student."),
    "raydfkd_student_wait_data_seconds": ("counter", "Seconds that students waited for images to arrive, by student."),
    "raydfkd_student_wait_limiter_seconds": ("counter", "Seconds that students waited for the rate limiter, by student."),
    "raydfkd_student_wait_students_seconds": ("counter", "Seconds that students waited for others at checkpoints, by student."),
    "raydfkd_kd_loss": ("gauge", "Mean distillation loss of the last records, by student."),
    "raydfkd_drawn_item_age_batches": ("gauge", "Mean age of drawn images, in batches inserted since, by student."),
    "raydfkd_buffer_images": ("gauge", "Images in the buffer."),
    "raydfkd_buffer_fill_ratio": ("gauge", "Images in the buffer over its capacity, in [0,1]."),
    "raydfkd_shard_bytes": ("gauge", "Bytes of the batches that the buffer keeps."),
    "raydfkd_item_age_batches": ("gauge", "Mean age of the images in the buffer, in batches inserted since."),
    "raydfkd_class_entropy_ratio": ("gauge", "Entropy of the buffer's classes over that of equal shares, in [0,1]."),
    "raydfkd_priority_mean": ("gauge", "Mean raw priority of the images in the buffer."),
    "raydfkd_staleness_rounds": ("gauge", "Rounds by which the weights behind the buffer's images are older than the newest."),
    "raydfkd_generators_wanted": ("gauge", "Generators wanted, by source."),
    "raydfkd_generators_running": ("gauge", "Generators that run, by source."),
    "raydfkd_generators_pending": ("gauge", "Generators that wait for a place, by source."),
    "raydfkd_restarts": ("counter", "Actors and student groups that were restarted."),
}
"""Name to (gauge or counter, description)."""

Reading = tuple[str, dict[str, str], float]
"""Metric, tags besides ``run``, and the value to set (gauge) or to add (counter)."""

_FIELDS: dict[str, tuple[tuple[str, str], ...]] = {
    "synthesis": (
        ("num_images", "raydfkd_images_made"),
        ("seconds", "raydfkd_synthesis_seconds"),
        ("generator_wait_limiter_s", "raydfkd_generator_wait_limiter_seconds"),
        ("generator_wait_weights_s", "raydfkd_generator_wait_weights_seconds"),
    ),
    "throughput": (
        ("images_distilled_since", "raydfkd_images_eaten"),
        ("student_wait_data_s", "raydfkd_student_wait_data_seconds"),
        ("student_wait_limiter_s", "raydfkd_student_wait_limiter_seconds"),
        ("student_wait_students_s", "raydfkd_student_wait_students_seconds"),
    ),
    "distillation": (("kd_loss", "raydfkd_kd_loss"), ("item_age", "raydfkd_drawn_item_age_batches")),
    "replay": (
        ("size", "raydfkd_buffer_images"),
        ("fill", "raydfkd_buffer_fill_ratio"),
        ("bytes", "raydfkd_shard_bytes"),
        ("item_age_mean", "raydfkd_item_age_batches"),
        ("class_entropy", "raydfkd_class_entropy_ratio"),
        ("priority_mean", "raydfkd_priority_mean"),
        ("staleness_rounds", "raydfkd_staleness_rounds"),
    ),
    "generators": (
        ("target", "raydfkd_generators_wanted"),
        ("running", "raydfkd_generators_running"),
        ("pending", "raydfkd_generators_pending"),
    ),
}
"""By kind of record: its fields, and the metric of each."""


def tags_of(metric: str) -> tuple[str, ...]:
    """The names of a metric's tags besides ``run``."""
    kind = next((kind for kind, fields in _FIELDS.items() if metric in dict(fields).values()), "")
    if kind == "synthesis":
        return "source", "generator"
    if kind in ("throughput", "distillation") or metric == "raydfkd_student_steps":
        return ("student",)
    return ("source",) if kind == "generators" else ()


def readings(kind: str, step: int, values: Mapping[str, Any], student: str) -> Iterator[Reading]:
    """What one metrics record says of the exported metrics.

    Args:
        kind, step, values: of the record, see ``run_dir``.
        student: whose record it is, where it does not say so itself.
    """
    if kind == "event":
        if values.get("restart"):
            yield "raydfkd_restarts", {}, 1.0
        return
    tags: dict[str, str] = {}
    if kind == "synthesis":
        generator = str(values["generator_id"])
        tags = {"source": generator.rpartition("-")[0], "generator": generator}
    elif kind in ("throughput", "distillation"):
        tags = {"student": str(values.get("student", student))}
    elif kind == "generators":
        tags = {"source": str(values["source"])}
    if kind == "throughput":
        yield "raydfkd_student_steps", tags, float(step)
    if kind == "replay":
        values = {**values, "fill": values["size"] / max(1, values["capacity"])}
    for field, metric in _FIELDS.get(kind, ()):
        value = values.get(field)
        if isinstance(value, int | float):
            yield metric, tags, float(value)
