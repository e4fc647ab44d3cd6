"""The rows of a paper's table as experiments of this machine: what they lack, where they run, what they found."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from raydfkd.data.data_root import data_root, named_teacher
from raydfkd.data.dataset_kind import DatasetConfig
from raydfkd.data.kinds import DATASETS
from raydfkd.errors import CheckpointError, ConfigError, DataError
from raydfkd.papers.cells import Cell, cells_of
from raydfkd.papers.paper import PaperConfig, load_paper
from raydfkd.pipeline.dataset.config import DatasetBuildConfig
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.pipeline.experiment.input_paths import anchor_paths
from raydfkd.pipeline.experiment.yaml_files import apply_overrides, validate
from raydfkd.pipeline.teacher.config import TeacherTrainingConfig
from raydfkd.settings import InputFile

TEACHERS = ("teachers", "teachers")
"""Paper and table of the recipes of named teachers."""


@dataclass(frozen=True)
class Row:
    """A cell at a share of its budget.

    Attributes:
        paper: name of the paper's file.
        cell: the cell.
        scale: share of the budget, in (0, 1].
        root: folder of all results.
        overrides: ``a.b=c`` settings on top of the cell's.
    """

    paper: str
    cell: Cell
    scale: float = 1.0
    root: Path = Path("reproduced")
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.cell.name

    @property
    def folder(self) -> Path:
        """Where its runs are; a share of the budget has its own."""
        where = self.root / self.paper / self.cell.table_name / self.name
        return where if self.scale == 1 else where / f"scale-{self.scale:g}"

    def run_dir(self, seed: int) -> Path:
        """The run directory of one seed."""
        return self.folder / f"seed{seed}"

    def results(self) -> list[dict[str, Any]]:
        """What its finished runs found, of every seed; of a data set, what its build found."""
        name = "dataset/build.json" if self.cell.kind == "dataset" else "seed*/result.json"
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob(name))]

    @cached_property
    def build(self) -> Row | None:
        """The data set that its experiment reads and that is built first."""
        if self.cell.build is None:
            return None
        table, _, name = self.cell.build.partition("/")
        found = next((cell for cell in cells_of(self.cell.paper, table) if cell.name == name), None)
        if found is None:
            raise ConfigError(f"row {self.name} needs the data set {self.cell.build}, which the paper's file does not have")
        return Row(self.paper, found, self.scale, self.root)

    @property
    def built(self) -> Path:
        """Where the data set is, for a row that builds one."""
        return self.folder / "dataset"

    @property
    def is_built(self) -> bool:
        """Whether its data set is complete, for a row that builds one."""
        return self.cell.kind == "dataset" and any(found.get("state") == "finished" for found in self.results())

    @cached_property
    def _tree(self) -> dict[str, Any]:
        build = self.build
        tree = self.cell.settings("" if build is None else str(build.built.absolute()))
        if self.cell.kind == "experiment":
            tree["reproduces"] = {"paper": self.paper, "table": self.cell.table_name, "row": self.name, "scale": self.scale}
        return apply_overrides(tree, list(self.overrides))

    def plain(self) -> dict[str, Any]:
        """Its settings as a YAML file has them; at a share of the budget every one of them, as it is there.

        Raises:
            ConfigError: only the paper's figures are known of this row.
        """
        if self.cell.kind == "experiment" and self.scale < 1:
            return self.experiment().model_dump(mode="json")
        return copy.deepcopy(self._tree)

    def experiment(self) -> ExperimentConfig:
        """Its experiment at this share of the budget; its teacher may be one that was trained at this share."""
        config = self._experiment
        weights = None if self.scale == 1 or self.teacher is None else self._weights()
        if weights is None:
            return config
        return config.model_copy(update={"teacher": config.teacher.model_copy(update={"checkpoint": weights.absolute()})})

    @cached_property
    def _experiment(self) -> ExperimentConfig:
        whole = build_experiment(self._tree, where=self._where)
        config: ExperimentConfig = self._at_scale(whole)
        if config.evaluation is None:
            return config
        # As many steps apart as in the whole run: evaluations are no part of the budget, and would be most of a small share.
        apart = config.evaluation.model_copy(update={"period_steps": whole.evaluation_period_steps})
        return config.model_copy(update={"evaluation": apart})

    def dataset_build(self) -> DatasetBuildConfig:
        """Its build of a data set; a share of the budget makes as many images, since nothing in it counts steps."""
        config: DatasetBuildConfig = self._at_scale(
            validate(DatasetBuildConfig, anchor_paths(self._tree, DatasetBuildConfig, Path()), self._where)
        )
        return config

    def recipe(self) -> TeacherTrainingConfig:
        """Its training of a teacher."""
        config: TeacherTrainingConfig = self._at_scale(
            validate(TeacherTrainingConfig, anchor_paths(self._tree, TeacherTrainingConfig, Path()), self._where)
        )
        return config

    def _at_scale(self, config: Any) -> Any:
        try:
            return config if self.scale == 1 else config.scaled(self.scale)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{self._where} does not fit together at scale {self.scale:g} ({reason}): use more") from error

    @property
    def _where(self) -> str:
        return f"{self.paper} {self.cell.table_name} {self.name}"

    @property
    def teacher(self) -> str | None:
        """The name of its teacher, if it is a named one."""
        if self.cell.kind == "teacher" or not self.cell.runnable:
            return None
        given = self._tree["teacher"].get("checkpoint")
        return None if given is None or InputFile(or_name=True).is_path(given) else str(given)

    @property
    def trained(self) -> Path:
        """The file of the teacher that this row trains: a named teacher, or at a share of the budget one of its own."""
        if self.scale == 1:
            return data_root() / "teachers" / f"{self.name}.safetensors"
        return self.folder / f"{self.name}.safetensors"

    @property
    def teacher_row(self) -> Row | None:
        """The row that trains its teacher; None if there is no recipe of that name."""
        cells = cells_of(_teachers(), TEACHERS[1])
        return next((Row(TEACHERS[0], cell, self.scale, self.root) for cell in cells if cell.name == self.teacher), None)

    def missing_teacher(self) -> str | None:
        """The named teacher that it needs, if that is not here."""
        return None if self.teacher is None or self._weights() is not None else self.teacher

    def _weights(self) -> Path | None:
        """The file of its named teacher: the teacher itself, or one trained at this row's share of the budget."""
        try:
            return named_teacher(str(self.teacher))
        except CheckpointError:
            row = None if self.scale == 1 else self.teacher_row
            return row.trained if row is not None and row.trained.is_file() else None

    def missing_data(self) -> list[str]:
        """Data sets that it trains on and that are not here."""
        if self.cell.kind == "teacher":
            return lacking([self.recipe().dataset])
        if self.cell.kind == "dataset":
            given = self.dataset_build().dataset
            return lacking([] if given is None else [given])
        config = self.experiment()
        collected = [] if config.collected is None or self.build is not None else [config.collected.dataset]
        drawn = [dataset for source in config.sources.values() for dataset in source.datasets_read]
        return [*lacking([*collected, *drawn]), *([] if self.build is None else self.build.missing_data())]

    def missing_evaluation(self) -> str | None:
        """The labelled images that its accuracy would be measured on, if they are not here."""
        if self.cell.kind != "experiment":
            return None
        evaluation = self.experiment().evaluation
        return next(iter(lacking([] if evaluation is None else [evaluation.dataset])), None)


@cache
def _teachers() -> PaperConfig:
    return load_paper(TEACHERS[0])


def lacking(datasets: Iterable[DatasetConfig]) -> list[str]:
    """Which of these data sets are not here, by location."""
    return list(dict.fromkeys(_lacking(datasets)))


def _lacking(datasets: Iterable[DatasetConfig]) -> Iterator[str]:
    for dataset in datasets:
        files_of = DATASETS.get(dataset.kind).files
        try:
            if files_of is not None:
                files_of(dataset)
        except DataError:
            yield dataset.location
