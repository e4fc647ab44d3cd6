"""What the repository ships for running, files and cells of papers' tables, and what their tests share: each is read once, and
all are checked in one test a promise."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raydfkd.papers.cells import Cell, cells_of
from raydfkd.papers.paper import load_paper, shipped_papers
from raydfkd.pipeline.dataset.config import DatasetBuildConfig, load_dataset_build
from raydfkd.pipeline.experiment.config import ExperimentConfig, load_experiment
from raydfkd.pipeline.experiment.input_paths import anchor_paths
from raydfkd.pipeline.experiment.yaml_files import apply_overrides, validate
from raydfkd.pipeline.sweep.config import load_sweep
from raydfkd.pipeline.teacher.config import TeacherTrainingConfig, load_teacher_training

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"

LOADERS: dict[str, Callable[..., Any]] = {
    "experiment": load_experiment,
    "dataset": load_dataset_build,
    "teacher": load_teacher_training,
    "sweep": load_sweep,
}
"""How a file of each kind is read."""
MODELS: dict[str, type[Any]] = {
    "experiment": ExperimentConfig,
    "dataset": DatasetBuildConfig,
    "teacher": TeacherTrainingConfig,
}
"""What a cell of each kind resolves to."""


@dataclass(frozen=True, eq=False)
class Shipped:
    """Something that resolves to settings: a YAML file, or a cell of a paper's table.

    Attributes:
        name: what failures call it: ``smoke/digits_ssdkd``, or paper, table and row.
        kind: experiment, dataset, teacher or sweep.
        origin: the file or the cell.
    """

    name: str
    kind: str
    origin: Path | Cell

    @property
    def part(self) -> str:
        """Its folder or its paper."""
        return self.name.split("/")[0]

    @cached_property
    def config(self) -> Any:
        """Its checked settings."""
        return self.load()

    def load(self, overrides: Iterable[str] = ()) -> Any:
        """Its checked settings, changed by ``overrides``."""
        if isinstance(self.origin, Path):
            return LOADERS[self.kind](self.origin, overrides)
        model = MODELS[self.kind]
        tree = apply_overrides(self.origin.settings(built=f"datasets/{self.origin.build}"), list(overrides))
        return validate(model, anchor_paths(tree, model, ROOT), self.name)


def _of_file(path: Path) -> Shipped:
    kind = "experiment"
    if path.parent.name == "teachers" or path.stem.endswith("_teacher"):
        kind = "teacher"
    elif path.parent.name == "sweeps":
        kind = "sweep"
    elif path.stem.endswith("_build"):
        kind = "dataset"
    place = EXPERIMENTS if path.is_relative_to(EXPERIMENTS) else ROOT
    return Shipped(path.relative_to(place).with_suffix("").as_posix(), kind, path)


def _cells() -> Iterator[tuple[str, Cell]]:
    for path in shipped_papers():
        paper = load_paper(path.stem)
        for table in paper.tables:
            for cell in cells_of(paper, table):
                yield f"{path.stem}/{table}/{cell.name}", cell


FILES = [_of_file(path) for path in sorted(EXPERIMENTS.glob("*/*.yaml"))]
"""All files that are not papers."""
OF_THE_DEMO = [_of_file(ROOT / "raydfkd" / "cli" / name) for name in ("demo.yaml", "demo_teacher.yaml")]
"""The demo's experiment and its teacher's recipe."""
CELLS = dict(_cells())
"""All cells of all papers, those with the paper's figures only included, by PAPER/TABLE/ROW."""
OF_PAPERS = [Shipped(name, cell.kind, cell) for name, cell in CELLS.items() if cell.runnable]
RUNS = [one for one in (*FILES, *OF_PAPERS) if one.kind == "experiment"]
BUILDS = [one for one in (*FILES, *OF_PAPERS) if one.kind == "dataset"]
RECIPES = [one for one in (*FILES, *OF_PAPERS, OF_THE_DEMO[1]) if one.kind == "teacher"]
SWEEPS = [one for one in FILES if one.kind == "sweep"]


def check_each(shipped: Iterable[Shipped], check: Callable[[Shipped], Any]) -> None:
    """Checks all; fails with the name of each that is not right, and why."""
    wrong, number = [], 0
    for number, one in enumerate(shipped, start=1):  # noqa: B007 - counted
        try:
            check(one)
        except Exception as error:  # any: the others are checked all the same
            wrong.append(f"{one.name}: {type(error).__name__}: {error}")
    assert number, "there is nothing to check"
    assert not wrong, f"{len(wrong)} of {number}\n" + "\n".join(wrong)


def commands(path: Path) -> list[list[str]]:
    """The commands in a file's head comment."""
    text = path.read_text(encoding="utf-8").split("\n\n")[0].replace("\\\n#", "")
    return [shlex.split(line) for line in re.findall(r"^#.*?(raydfkd [a-z-]+ (?:build )?\S+\.yaml.*)$", text, re.MULTILINE)]


def one_of_each(shipped: Iterable[Shipped], kind: Callable[[Shipped], object]) -> list[Shipped]:
    """The first of each kind."""
    first: dict[object, Shipped] = {}
    for one in shipped:
        first.setdefault(kind(one), one)
    return list(first.values())


ELSEWHERE = ("teacher", "evaluation", "held_out", "runtime")
"""Sections that do not decide which code a first step takes, or that first steps replace."""
NAMED = ("model", "checkpoint", "path", "root", "dataset", "exclude", "resources")
"""Settings that first steps replace where they are given: networks, files and machines."""


def kind_of(config: ExperimentConfig | DatasetBuildConfig) -> str:
    """All settings but sizes and what is only named: those of one kind take the same way through the code.

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
