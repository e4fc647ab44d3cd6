"""What teacher and student predict. A new kind of task is a file and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydfkd.registry import Registry
from raydfkd.tasks.task import Task, TaskConfig, TaskKind

__all__ = ["TASKS", "AnyTask", "Task", "TaskConfig", "TaskKind", "build_task"]

TASKS: Registry[TaskKind] = Registry("task", TaskKind)
TASKS.add("classification", "raydfkd.tasks.classification:TASK")

if TYPE_CHECKING:
    AnyTask = TaskConfig
else:
    AnyTask = TASKS.union("kind")
    """Settings of any task, distinguished by ``kind``."""


def build_task(config: TaskConfig) -> Task:
    """The task of such settings."""
    return TASKS.get(config.kind).build(config)
