"""What teacher and student predict. A new kind of task is a file and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from raydfkd.registry import Registry
from raydfkd.tasks.task import Task, TaskConfig, TaskKind

__all__ = ["DEFAULT_KIND", "TASKS", "AnyTask", "Task", "TaskConfig", "TaskKind", "build_task", "kind_with"]

TASKS: Registry[TaskKind] = Registry("task", TaskKind)
TASKS.add("classification", "raydfkd.tasks.classification:TASK")
TASKS.add("segmentation", "raydfkd.tasks.segmentation:TASK")

DEFAULT_KIND = "classification"
"""Of settings that name no kind."""


def _with_kind(value: Any) -> Any:
    return {"kind": DEFAULT_KIND, **value} if isinstance(value, dict) else value


if TYPE_CHECKING:
    AnyTask = TaskConfig
else:
    AnyTask = Annotated[TASKS.union("kind"), BeforeValidator(_with_kind)]
    """Settings of any task, distinguished by ``kind``; without one, of the default's."""


def kind_with(positions: tuple[int, ...], num_classes: int, image_shape: tuple[int, int, int]) -> str | None:
    """The kind of task whose networks give logits with these axes behind the classes; None: there is none."""
    for kind in TASKS:
        if TASKS.get(kind).config(kind=kind, num_classes=num_classes, image_shape=image_shape).positions == positions:
            return kind
    return None


def build_task(config: TaskConfig) -> Task:
    """The task of such settings."""
    return TASKS.get(config.kind).build(config)
