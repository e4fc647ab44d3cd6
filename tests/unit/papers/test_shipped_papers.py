"""What the rows of the shipped papers share."""

from __future__ import annotations

from raydfkd.papers.cells import cells_of
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
