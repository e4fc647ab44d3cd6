"""Which settings name input files, and where a relative one is looked for."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

INPUT_PATHS = (
    "teacher.checkpoint", "teacher.model", "students.*.checkpoint", "evaluation.dataset.path", "evaluation.dataset.root",
    "collected.dataset.path", "collected.dataset.root", "collected.exclude", "held_out.path", "sources.*.images.path",
    "sources.*.images.dataset.path", "sources.*.images.dataset.root",
)  # fmt: skip
"""Settings of an experiment that name input files (a model only where it is a .pt2 file)."""


DATASET_BUILD_PATHS = (
    "teacher.checkpoint", "teacher.model", "dataset.path", "dataset.root", "images.path", "images.dataset.path",
    "images.dataset.root",
)  # fmt: skip
"""The same of a data set's build."""


def anchor_paths(tree: dict[str, Any], folder: Path, paths: Iterable[str] = INPUT_PATHS) -> dict[str, Any]:
    """A copy of unchecked settings whose input paths are absolute: beside ``folder``, else in the working directory.

    What is no path there is left for the check to refuse.
    """
    result = copy.deepcopy(tree)
    for dotted in paths:
        _anchor(result, dotted.split("."), folder)
    return result


def _anchor(node: Any, keys: list[str], folder: Path) -> None:
    if not isinstance(node, dict):
        return
    key, *rest = keys
    for name in list(node) if key == "*" else [key] if key in node else []:
        value = node[name]
        if rest:
            _anchor(value, rest, folder)
        elif isinstance(value, list):
            node[name] = [absolute(one, folder) for one in value]
        elif key != "model" or str(value).endswith(".pt2"):
            node[name] = absolute(value, folder)


def absolute(value: Any, folder: Path) -> Any:
    """A path as an absolute one: in ``folder``, or in the working directory where only that has it. No path: itself."""
    if not isinstance(value, str | Path):
        return value
    path = Path(value).expanduser()
    beside, here = folder / path, Path.cwd() / path
    return str((here if here.exists() and not beside.exists() else beside).resolve())
