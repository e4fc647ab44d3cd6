"""Our figures beside the paper's, by the figure of merit that a table is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydfkd.papers.cells import chosen_cells
from raydfkd.papers.outcomes import outcome_of
from raydfkd.papers.paper import load_paper
from raydfkd.papers.rows import Row

TABLES = [("table3", "ssdkd", "miou"), ("table4", "cifar10_wrn40_2_wrn16_1_all", "accuracy")]


@pytest.mark.parametrize(("table", "name", "metric"), TABLES)
def test_a_run_s_figure_of_merit_is_the_table_s(tmp_path: Path, table: str, name: str, metric: str) -> None:
    (cell,) = chosen_cells(load_paper("ssdkd"), table, name)
    result = {"metric_name": metric, "teacher": {"metric": 0.5}, "student": {"metric_last": 0.4, "agreement": 0.9}}
    found = outcome_of(Row("ssdkd", cell, 1.0, tmp_path), [result])
    assert (found["ours"], found["gap"]) == (pytest.approx(40.0), pytest.approx(10.0))
    assert found["paper"] == {"miou": 38.4, "accuracy": 88.07}[metric]
    other = outcome_of(Row("ssdkd", cell, 1.0, tmp_path), [{**result, "metric_name": "another"}])
    assert (other["ours"], other["gap"]) == (None, None)
