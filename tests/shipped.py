"""The YAML files that the repository ships, and what their tests share: each read once, all checked in one test a promise."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from raydfkd.pipeline.dataset.config import DatasetBuildConfig, load_dataset_build
from raydfkd.pipeline.experiment.config import ExperimentConfig, load_experiment
from raydfkd.pipeline.teacher.config import load_teacher_training

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"

FILES = [path for path in sorted(EXPERIMENTS.glob("*/**/*.yaml")) if path.relative_to(EXPERIMENTS).parts[0] != "results"]
RECIPES = [path for path in FILES if path.parent.name == "teachers"]
SWEEPS = [path for path in FILES if path.parent.name == "sweeps"]
BUILDS = [p for p in FILES if p.stem.endswith("_build") or p.parent.name == "builds" or "surrogate/table3" in p.as_posix()]
RUNS = [path for path in FILES if path.parent.name not in ("teachers", "sweeps") and path not in BUILDS]
OF_THE_DEMO = [ROOT / "raydfkd" / "cli" / "demo.yaml", ROOT / "raydfkd" / "cli" / "demo_teacher.yaml"]
"""The demo's experiment and its teacher's recipe."""

run_of = cache(load_experiment)
"""A run's checked settings, read once in a test process."""
build_of = cache(load_dataset_build)
"""The same of a data set's build."""
recipe_of = cache(load_teacher_training)
"""The same of a teacher's recipe."""


def name_of(path: Path) -> str:
    return path.relative_to(EXPERIMENTS if path.is_relative_to(EXPERIMENTS) else ROOT).with_suffix("").as_posix()


def check_each(paths: Iterable[Path], check: Callable[[Path], Any]) -> None:
    """Checks all files; fails with the name of each that is not right, and why."""
    wrong, number = [], 0
    for number, path in enumerate(paths, start=1):  # noqa: B007 - counted
        try:
            check(path)
        except Exception as error:  # any: the other files are checked all the same
            wrong.append(f"{name_of(path)}: {type(error).__name__}: {error}")
    assert number, "there is no such file"
    assert not wrong, f"{len(wrong)} of {number} files\n" + "\n".join(wrong)


def commands(path: Path) -> list[list[str]]:
    """The commands in a file's head comment."""
    text = path.read_text(encoding="utf-8").split("\n\n")[0].replace("\\\n#", "")
    return [shlex.split(line) for line in re.findall(r"^#.*?(raydfkd [a-z-]+ (?:build )?\S+\.yaml.*)$", text, re.MULTILINE)]


def one_of_each(paths: Iterable[Path], kind: Callable[[Path], object]) -> list[Path]:
    """The first file of each kind."""
    first: dict[object, Path] = {}
    for path in paths:
        first.setdefault(kind(path), path)
    return list(first.values())


ELSEWHERE = ("teacher", "evaluation", "held_out", "runtime")
"""Sections that do not decide which code a first step takes, or that first steps replace."""
NAMED = ("model", "checkpoint", "path", "root", "dataset", "exclude", "resources")
"""Settings that first steps replace where they are given: networks, files and machines."""


def kind_of(config: ExperimentConfig | DatasetBuildConfig) -> str:
    """All settings but sizes and what is only named: files of one kind take the same way through the code.

    Of a number it counts whether it is 0, of what is only named (``NAMED``) whether it is given.
    """
    tree = config.model_dump(mode="json", exclude=set(ELSEWHERE))
    return repr((config.task.image_shape[0], _choices(tree)))


def _choices(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: one is not None if key in NAMED else _choices(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_choices(one) for one in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value != 0
    return value


def without_checkpoint(config: ExperimentConfig | DatasetBuildConfig) -> list[str]:
    """Overrides by which a teacher of random weights stands in."""
    channels = config.task.image_shape[0]
    return ["teacher.checkpoint=null", f"teacher.normalization={{mean: {[0.5] * channels}, std: {[0.25] * channels}}}"]
