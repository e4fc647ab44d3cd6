"""What the rows of the shipped papers share."""

from __future__ import annotations

from raydfkd.papers.cells import Cell, cells_of
from raydfkd.papers.paper import load_paper
from raydfkd.pipeline.experiment.config import build_experiment


def test_no_row_of_ssdkd_s_divides_the_importance_weights_by_their_largest() -> None:
    """Eq. 5 has no such division."""
    paper = load_paper("ssdkd")
    rows = {
        f"{table}/{cell.name}": build_experiment(cell.settings()).replay.synthetic.sampler
        for table in paper.tables
        for cell in cells_of(paper, table)
        if cell.runnable
    }
    prioritized = {name: sampler for name, sampler in rows.items() if sampler.kind == "prioritized"}
    assert len(prioritized) >= 30
    assert [name for name, sampler in prioritized.items() if sampler.normalize_importance != "none"] == []


def test_the_baselines_figures_are_those_of_the_papers_tables() -> None:
    """Both give them: the papers' files beside the papers' own methods, the baselines' file beside what runs them."""
    baselines, compared = load_paper("baselines"), 0
    for table, (paper, theirs) in {
        "ssdkd": ("ssdkd", "table2"),
        "hidfd": ("hidfd", "table1"),
        "surrogate": ("surrogate", "table7"),
    }.items():
        figures = {(cell.kind, *named(cell)): cell for cell in cells_of(load_paper(paper), theirs)}
        for cell in cells_of(baselines, table):
            other = figures[(cell.kind, *named(cell))]
            for measure in ("accuracy", "hours", "teacher"):
                if measure in cell.table.paper:
                    assert cell.figure(measure) == other.figure(measure), (table, cell.name, measure)
                    compared += 1
    assert compared >= 3 * 80


def named(cell: Cell) -> tuple[str | None, ...]:
    """What tells a cell of a baseline apart: data, pair of networks where the table has several, and method."""
    called = {"pre_dfkd": "predfkd", "fast": "fast10"}
    method = cell.members.get("method", cell.members.get("images"))
    pair = cell.members.get("pair", "resnet34_resnet18")
    return cell.members["data"], pair, called.get(str(method), method)
