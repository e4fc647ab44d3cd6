"""A paper as one YAML file: its experiments as axes and tables, and its figures as data. Imports neither torch nor ray.

An axis is a list of named settings: data sets, pairs of networks, methods, ablations. A table says which axes make its rows
and columns. A cell is one member of each axis; its settings are the ``base``, then the table's ``settings``, then those of its
members in the order in which the file declares the axes, then those of every case that fits. Each layer is merged over the
one before it, as an experiment over its ``base``. Last, ``{data}`` in a text becomes the cell's member of the axis ``data``,
and ``{teacher.model}`` the setting of that name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from raydfkd.data.data_root import shipped_folder
from raydfkd.errors import ConfigError, UnknownNameError
from raydfkd.pipeline.experiment.yaml_files import read_yaml, validate
from raydfkd.registry import nearest
from raydfkd.settings import Settings, require_file_names

Kind = Literal["experiment", "dataset", "teacher"]


class CitationConfig(Settings):
    """Where the paper appeared."""

    title: str
    """Full title."""
    authors: str = ""
    """Authors."""
    venue: str = ""
    """Journal or conference, and year."""
    url: str | None = None
    """Page of the paper."""


class MemberConfig(Settings):
    """One choice of an axis."""

    title: str | None = None
    """Name in tables; null: the member's own."""
    settings: dict[str, Any] | None = Field(default_factory=dict)
    """What it changes in the experiment; null: the paper has it and this project does not, so only its figures are shown."""


class CaseConfig(Settings):
    """Settings of the cells with certain members, where these do not follow from each axis alone."""

    where: dict[str, str | tuple[str, ...]] = Field(min_length=1)
    """Axis to the member or members that it is about; a cell without one of these axes does not fit."""
    settings: dict[str, Any] | None
    """What is changed there; null: there is no such experiment, so only the paper's figures are shown."""
    note: str | None = None
    """Why."""

    def fits(self, members: dict[str, str]) -> bool:
        return all(
            members.get(axis) in ((wanted,) if isinstance(wanted, str) else wanted) for axis, wanted in self.where.items()
        )


class TableConfig(Settings):
    """One table or figure of the paper."""

    title: str
    """What it shows."""
    source: str
    """Its number in the paper."""
    kind: Kind = "experiment"
    """What a cell is: an experiment, the build of a data set, or the training of a teacher."""
    rows: tuple[str, ...]
    """Axes that make the rows, the outer one first."""
    columns: tuple[str, ...] = ()
    """Axes that make the columns."""
    only: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Members of an axis that the table has, in its order; all of an axis that is not named here."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What all of its experiments change in the base."""
    absent: tuple[dict[str, str | tuple[str, ...]], ...] = ()
    """Cells that the table does not have, each as axis to member or members."""
    build: str | None = None
    """The data set that a cell's experiment reads, as TABLE/ROW of a table of kind ``dataset``; its folder is ``{build}`` in
    the settings. A case's or a member's setting of that name comes first."""
    metric: str = "accuracy"
    """What ``paper`` and ``found`` hold under this name is the figure of merit of this name in a result.json, in percent."""
    paper: dict[str, Any] = Field(default_factory=dict)
    """The paper's figures by measure (accuracy and teacher in percent, hours, ...): mappings by members, and at the end a
    number, or a list over the table's columns; null where the paper has none."""
    found: dict[str, Any] = Field(default_factory=dict)
    """Our own figures, in the same form."""
    notes: tuple[str, ...] = ()
    """What one must know to compare: deviations of ours, contradictions of the paper."""

    @model_validator(mode="after")
    def _axes(self) -> TableConfig:
        named = [*self.rows, *self.columns]
        if len(set(named)) < len(named):
            raise ValueError(f"rows {list(self.rows)} and columns {list(self.columns)} name an axis twice")
        return self


class PaperConfig(Settings):
    """A paper's experiments."""

    paper: CitationConfig
    """The paper."""
    base: dict[Kind, dict[str, Any]]
    """Settings that all cells of a kind start from."""
    axes: dict[str, dict[str, MemberConfig | None]]
    """Named choices. ``NAME: null`` is a member that changes nothing."""
    cases: tuple[CaseConfig, ...] = ()
    """Exceptions, in the order in which they are applied."""
    tables: dict[str, TableConfig]
    """Tables and figures of the paper."""

    @model_validator(mode="after")
    def _members_exist(self) -> PaperConfig:
        require_file_names("table", self.tables)
        for axis in self.axes:
            require_file_names(f"{axis} member", self.axes[axis], dots=True)
        for name, table in self.tables.items():
            for axis in (*table.rows, *table.columns):
                if axis not in self.axes:
                    raise ValueError(f"tables.{name}: there is no axis {axis!r}: {nearest(axis, list(self.axes))}")
            self._check(f"tables.{name}.only", table.only)
            for where in table.absent:
                self._check(f"tables.{name}.absent", where)
        for number, case in enumerate(self.cases):
            self._check(f"cases.{number}.where", case.where)
        return self

    def _check(self, place: str, where: Mapping[str, str | tuple[str, ...]]) -> None:
        for axis, wanted in where.items():
            if axis not in self.axes:
                raise ValueError(f"{place}: there is no axis {axis!r}: {nearest(axis, list(self.axes))}")
            for member in (wanted,) if isinstance(wanted, str) else wanted:
                if member not in self.axes[axis]:
                    raise ValueError(f"{place}: axis {axis} has no member {member!r}: {nearest(member, list(self.axes[axis]))}")

    def members(self, table: TableConfig, axis: str) -> tuple[str, ...]:
        """The members of an axis that a table has, in its order."""
        return table.only.get(axis, tuple(self.axes[axis]))

    def member(self, axis: str, name: str) -> MemberConfig:
        return self.axes[axis][name] or MemberConfig()

    def table(self, name: str) -> TableConfig:
        """The table of that name.

        Raises:
            UnknownNameError: there is none.
        """
        if name not in self.tables:
            raise UnknownNameError(f"there is no table {name!r} in this paper: {nearest(name, list(self.tables))}")
        return self.tables[name]


def shipped_papers() -> Iterator[Path]:
    """The files of the papers that come with the program."""
    yield from sorted(shipped_folder().glob("*.yaml"))


def load_paper(name: str) -> PaperConfig:
    """A paper by its name, or from a file of one's own.

    Raises:
        ConfigError: there is none, or something is wrong with it, in one sentence.
    """
    own = Path(name)
    if own.suffix in (".yaml", ".yml"):
        return validate(PaperConfig, read_yaml(own), own)
    known = {path.stem: path for path in shipped_papers()}
    if name not in known:
        raise ConfigError(f"there is no paper {name!r}: {nearest(name, list(known))}, or give a YAML file of your own")
    return validate(PaperConfig, read_yaml(known[name]), known[name].name)
