from __future__ import annotations

import pytest

from raydfkd.papers import estimate
from raydfkd.papers.cells import chosen_cells
from raydfkd.papers.paper import load_paper
from raydfkd.papers.rows import Row


@pytest.fixture(autouse=True)
def a_billion_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_per_second", lambda: 1e9)


def hours(paper: str, table: str, name: str, scale: float = 1.0, *overrides: str) -> float:
    [cell] = chosen_cells(load_paper(paper), table, name)
    found = estimate.estimated_hours(Row(paper, cell, scale, overrides=overrides))
    assert found is not None
    return found


def test_a_step_costs_the_teacher_once_and_the_student_forward_and_backward() -> None:
    """Multiply-adds counted by layer: WRN-16-2 has three equal groups, the first of WRN-16-1 has no shortcut."""
    row = ("laptop", "cifar10", "none")
    longer = hours(*row, 1.0, "schedule.rounds=101") - hours(*row, 1.0, "schedule.rounds=100")
    [cell] = chosen_cells(load_paper("laptop"), "cifar10", "none")
    config = Row("laptop", cell).experiment()
    [student], [source] = config.students.values(), config.sources.values()
    teacher = 2 * (27 * 16 * 32**2 + 3 * 33_554_432 + 128 * 10)
    small = 2 * (27 * 16 * 32**2 + 4 * 9 * 16 * 16 * 32**2 + 2 * 8_388_608 + 64 * 10)
    steps = config.schedule.student_steps_per_round * student.batch_size
    images = config.schedule.batches_per_round * source.batch_size
    trained = images * source.steps_per_batch
    expected = (steps * (teacher + 3 * small) + (images + 3 * trained) * teacher) / 1e9 / 3600
    assert longer == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("paper", "table", "name"), [("laptop", "cifar10", "none"), ("laptop", "hidfd", None)])
def test_a_share_of_the_budget_takes_that_share_of_the_time(paper: str, table: str, name: str | None) -> None:
    name = name or next(cell.name for cell in chosen_cells(load_paper(paper), table) if cell.kind == "experiment")
    assert hours(paper, table, name, 0.5) == pytest.approx(0.5 * hours(paper, table, name), rel=0.02)
