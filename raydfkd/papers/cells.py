"""The cells of a paper's tables: which there are, their settings and the paper's figures. Plain data, without torch or ray."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import product
from typing import Any

from raydfkd.errors import ConfigError
from raydfkd.papers.paper import Kind, PaperConfig, TableConfig
from raydfkd.pipeline.experiment.yaml_files import merge
from raydfkd.registry import nearest

_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_.]+)\}")


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        paper: the paper that it is of.
        table_name: its table.
        members: axis to member, in the order in which the paper declares its axes.
    """

    paper: PaperConfig
    table_name: str
    members: Mapping[str, str]

    @property
    def table(self) -> TableConfig:
        return self.paper.tables[self.table_name]

    @property
    def name(self) -> str:
        """Its members, joined: what the command line calls a row."""
        return "_".join(self.members.values())

    @property
    def kind(self) -> Kind:
        return self.table.kind

    def title(self, axes: tuple[str, ...]) -> str:
        """The titles of its members of these axes."""
        return ", ".join(self.paper.member(axis, self.members[axis]).title or self.members[axis] for axis in axes)

    @cached_property
    def _layers(self) -> list[dict[str, Any] | None]:
        members = [self.paper.member(axis, name).settings for axis, name in self.members.items()]
        cases = [case.settings for case in self.paper.cases if case.fits(dict(self.members))]
        return [self.paper.base.get(self.kind, {}), self.table.settings, *members, *cases]

    @property
    def runnable(self) -> bool:
        """Whether this project has it; otherwise only the paper's figures are known."""
        return self.kind in self.paper.base and None not in self._layers

    @property
    def build(self) -> str | None:
        """The data set that is built first, as TABLE/ROW of the same paper."""
        named = self._merged.get("build", self.table.build)
        return None if named is None else str(_filled(named, self.members, {}, self.name))

    @cached_property
    def _merged(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for layer in self._layers:
            tree = merge(tree, layer or {})
        return tree

    def settings(self, built: str = "") -> dict[str, Any]:
        """The plain settings of its experiment, build or training, unchecked.

        Args:
            built: folder of the data set that is built first.

        Raises:
            ConfigError: this project does not have it, or a placeholder names nothing.
        """
        if not self.runnable:
            raise ConfigError(
                f"{self.table_name} {self.name} has the paper's figures only: raydfkd does not have its method; "
                "choose a row that --list does not mark so"
            )
        tree = {key: value for key, value in self._merged.items() if key != "build"}
        filled: dict[str, Any] = _filled(tree, {**self.members, "build": built}, tree, self.name)
        return filled

    def figure(self, measure: str, figures: Mapping[str, Any] | None = None) -> float | None:
        """The paper's figure of one measure (``accuracy``, ``hours``, ``teacher``, ...), or None.

        Args:
            figures: look in these instead of the paper's, such as the table's ``found``.
        """
        node = (self.table.paper if figures is None else figures).get(measure)
        left = dict(self.members)
        while isinstance(node, dict):
            axis = next((axis for axis, member in left.items() if member in node), None)
            if axis is None:
                return None
            node = node[left.pop(axis)]
        if isinstance(node, list):
            axes = tuple(axis for axis in self.table.columns if axis in left)
            columns = combinations(self.paper, self.table, axes)
            if len(node) != len(columns):
                where = f"{self.table_name}: {measure} of {self.name}"
                raise ConfigError(f"{where} has {len(node)} figures for {len(columns)} columns: give one for each")
            node = node[columns.index(tuple(left[axis] for axis in axes))]
        return None if node is None else float(node)


def _filled(node: Any, members: Mapping[str, str], tree: dict[str, Any], where: str) -> Any:
    """``node`` with each placeholder replaced by a member of the cell or by a setting of ``tree``."""
    if isinstance(node, dict):
        return {key: _filled(value, members, tree, where) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_filled(value, members, tree, where) for value in node]
    if not isinstance(node, str):
        return node

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in members:
            return members[name]
        found: Any = tree
        for key in name.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if found is None or isinstance(found, dict | list):
            raise ConfigError(f"row {where}: {{{name}}} in {node!r} names neither an axis nor a setting of the row")
        return str(found)

    return _PLACEHOLDER.sub(value, node)


def combinations(paper: PaperConfig, table: TableConfig, axes: tuple[str, ...]) -> list[tuple[str, ...]]:
    """What a table has of these axes: a member of each, the last axis varying fastest."""
    return list(product(*(paper.members(table, axis) for axis in axes)))


def cells_of(paper: PaperConfig, name: str) -> Iterator[Cell]:
    """All cells of a table, row by row.

    Raises:
        UnknownNameError: there is no such table.
    """
    table = paper.table(name)
    used = (*table.rows, *table.columns)
    order = [axis for axis in paper.axes if axis in used]
    for row, column in product(combinations(paper, table, table.rows), combinations(paper, table, table.columns)):
        members = dict(zip(used, (*row, *column), strict=True))
        if not any(_within(members, where) for where in table.absent):
            yield Cell(paper, name, {axis: members[axis] for axis in order})


def chosen_cells(paper: PaperConfig, name: str, row: str | None = None) -> list[Cell]:
    """The cells of a table, or those whose name is ``row``, which may be a pattern such as ``cifar10_*``.

    Raises:
        ConfigError: no cell has that name.
    """
    cells = list(cells_of(paper, name))
    if row is None:
        return cells
    chosen = [cell for cell in cells if fnmatchcase(cell.name, row)]
    if not chosen:
        raise ConfigError(f"{name} has no row {row!r}: {nearest(row, [cell.name for cell in cells])}")
    return chosen


def _within(members: Mapping[str, str], where: Mapping[str, Any]) -> bool:
    return all(members.get(axis) in ((wanted,) if isinstance(wanted, str) else wanted) for axis, wanted in where.items())
