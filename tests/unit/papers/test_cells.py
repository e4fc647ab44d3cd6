"""Cells of tables: which there are, what their settings are made of, and the paper's figures."""

from __future__ import annotations

from typing import Any

import pytest

from raydfkd.errors import ConfigError, UnknownNameError
from raydfkd.papers.cells import Cell, cells_of, chosen_cells
from raydfkd.papers.paper import PaperConfig


def paper_of(table: dict[str, Any], **sections: Any) -> PaperConfig:
    return PaperConfig.model_validate(
        {
            "paper": {"title": "A paper"},
            "base": {"experiment": {"from": "base"}},
            "axes": {
                "data": {"c10": {"title": "CIFAR-10"}, "c100": None},
                "pair": {"big": None, "small": None},
                "method": {"new": {"title": "Ours"}, "old": {"settings": None}},
            },
            **sections,
            "tables": {"t": {"title": "A table", "source": "Table 1", **table}},
        }
    )


def cell_of(name: str, table: dict[str, Any], **sections: Any) -> Cell:
    return chosen_cells(paper_of(table, **sections), "t", name)[0]


def test_cells_come_row_by_row_and_are_called_by_their_members_in_the_order_of_the_axes() -> None:
    paper = paper_of({"rows": ["pair"], "columns": ["method", "data"]})
    assert [cell.name for cell in cells_of(paper, "t")] == [
        *("c10_big_new", "c100_big_new", "c10_big_old", "c100_big_old"),
        *("c10_small_new", "c100_small_new", "c10_small_old", "c100_small_old"),
    ]


def test_absent_cells_are_not_there_and_only_chooses_and_orders() -> None:
    table = {
        "rows": ["data", "pair"],
        "only": {"data": ["c100", "c10"]},
        "absent": [{"data": "c100", "pair": "small"}, {"pair": ["big"], "data": ["c10"]}],
    }
    assert [cell.name for cell in cells_of(paper_of(table), "t")] == ["c100_big", "c10_small"]


def test_titles_are_the_members_or_their_names() -> None:
    cell = cell_of("c10_big_new", {"rows": ["data", "pair", "method"]})
    assert cell.title(("method", "data", "pair")) == "Ours, CIFAR-10, big"


LAYERS = ["base", "table", "data", "pair", "case 1", "case 2"]
"""In the order in which they are merged."""


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_of_all_layers_that_set_something_the_last_decides(number: int) -> None:
    given = LAYERS[: number + 1]

    def said(layer: str) -> dict[str, Any]:
        return {"from": layer, "of": {layer: True}} if layer in given else {}

    cell = cell_of(
        "c10_big",
        {"rows": ["pair", "data"], "settings": said("table")},
        base={"experiment": said("base")},
        axes={"data": {"c10": {"settings": said("data")}}, "pair": {"big": {"settings": said("pair")}}},
        cases=[
            {"where": {"data": "c10"}, "settings": said("case 1")},
            {"where": {"pair": ["big"], "data": "c10"}, "settings": said("case 2")},
        ],
    )
    assert cell.settings() == {"from": given[-1], "of": dict.fromkeys(given, True)}


def test_axes_are_merged_in_the_order_of_the_file_and_not_of_the_table() -> None:
    members = {"settings": {"last": "pair"}}, {"settings": {"last": "data"}}
    axes = {"pair": {"big": members[0]}, "data": {"c10": members[1]}}
    for table in ({"rows": ["data", "pair"]}, {"rows": ["pair", "data"]}, {"rows": ["data"], "columns": ["pair"]}):
        assert cell_of("big_c10", table, axes=axes).settings()["last"] == "data"


def test_cases_fit_cells_that_have_all_of_their_axes_and_one_of_the_members_of_each() -> None:
    cases = [
        {"where": {"pair": ["big", "small"], "data": "c100"}, "settings": {"one": 1}},
        {"where": {"method": "new"}, "settings": {"two": 2}},
    ]
    settings = {cell.name: cell.settings() for cell in cells_of(paper_of({"rows": ["data", "pair"]}, cases=cases), "t")}
    assert [name for name, one in settings.items() if "one" in one] == ["c100_big", "c100_small"]
    assert [name for name, one in settings.items() if "two" in one] == []


def test_placeholders_are_members_settings_and_the_built_data_set() -> None:
    settings = {
        "teacher": {"model": "resnet34", "checkpoint": "{data}_{teacher.model}", "scale": 2},
        "paths": ["{build}/train", {"inner": "{pair}"}],
        "scale": "{teacher.scale}",
        "plain": 3,
    }
    table = {"rows": ["data", "pair"], "settings": settings, "build": "builds/{data}"}
    cell = cell_of("c100_small", table, base={"experiment": {}})
    assert cell.build == "builds/c100"
    assert cell.settings(built="there") == {
        "teacher": {"model": "resnet34", "checkpoint": "c100_resnet34", "scale": 2},
        "paths": ["there/train", {"inner": "small"}],
        "scale": "2",
        "plain": 3,
    }


def test_a_member_s_build_comes_before_the_table_s_and_is_no_setting() -> None:
    axes = {"data": {"c10": {"settings": {"build": "own/{data}"}}, "c100": None}}
    table = {"rows": ["data"], "build": "all/{data}"}
    assert [cell.build for cell in cells_of(paper_of(table, axes=axes), "t")] == ["own/c10", "all/c100"]
    assert cell_of("c10", table, axes=axes).settings() == {"from": "base"}
    assert cell_of("c10", {"rows": ["data"]}).build is None


@pytest.mark.parametrize("text", ["{model}", "{teacher}", "{teacher.depth.x}"])
def test_a_placeholder_of_nothing_is_told_with_its_row(text: str) -> None:
    cell = cell_of("c10", {"rows": ["data"], "settings": {"teacher": {"depth": 3}, "name": f"a {text}"}})
    with pytest.raises(ConfigError) as raised:
        cell.settings()
    assert str(raised.value) == f"row c10: {text} in 'a {text}' names neither an axis nor a setting of the row"


def test_a_cell_is_not_ours_if_a_member_a_case_or_its_kind_is_not() -> None:
    table = {"rows": ["data", "method"]}
    cases = [{"where": {"data": "c100", "method": "new"}, "settings": None}]
    cells = list(cells_of(paper_of(table, cases=cases), "t"))
    assert [cell.name for cell in cells if cell.runnable] == ["c10_new"]
    assert not any(cell.runnable for cell in cells_of(paper_of({**table, "kind": "dataset"}), "t"))
    with pytest.raises(ConfigError, match=r"^t c10_old has the paper's figures only: raydfkd does not have its method; choose"):
        next(cell for cell in cells if cell.name == "c10_old").settings()


def test_figures_are_found_by_members_in_any_order_and_in_lists_by_column() -> None:
    figures = {
        "accuracy": {"new": {"c10": [1, 2], "c100": [3, None]}, "old": {"small": 9}},
        "hours": {"big": 5},
        "teacher": 7.5,
    }
    table = {"rows": ["data", "method"], "columns": ["pair"], "paper": figures}
    cells = {cell.name: cell for cell in cells_of(paper_of(table), "t")}
    assert {name: cell.figure("accuracy") for name, cell in cells.items()} == {
        "c10_big_new": 1, "c10_small_new": 2, "c10_big_old": None, "c10_small_old": 9,
        "c100_big_new": 3, "c100_small_new": None, "c100_big_old": None, "c100_small_old": 9,
    }  # fmt: skip
    assert [cells[name].figure("hours") for name in ("c10_big_new", "c10_small_new")] == [5, None]
    assert {cell.figure("teacher") for cell in cells.values()} == {7.5}
    assert cells["c10_big_new"].figure("speed") is None
    assert cells["c10_big_new"].figure("accuracy", {"accuracy": {"c10": 4}}) == 4


def test_lists_of_figures_go_over_the_columns_that_no_mapping_names_the_last_axis_fastest() -> None:
    table = {
        "rows": ["method"],
        "columns": ["data", "pair"],
        "only": {"data": ["c100", "c10"]},
        "paper": {"accuracy": {"new": [1, 2, 3, 4]}, "hours": {"c10": [5, 6]}},
    }
    paper = paper_of(table)
    found = {cell.name: (cell.figure("accuracy"), cell.figure("hours")) for cell in chosen_cells(paper, "t", "*_new")}
    assert found == {
        "c100_big_new": (1, None), "c100_small_new": (2, None), "c10_big_new": (3, 5), "c10_small_new": (4, 6),
    }  # fmt: skip


def test_a_list_of_another_length_than_the_columns_is_told() -> None:
    cell = cell_of("c10_big", {"rows": ["data"], "columns": ["pair"], "paper": {"accuracy": {"c10": [1, 2, 3]}}})
    with pytest.raises(ConfigError, match=r"^t: accuracy of c10_big has 3 figures for 2 columns: give one for each$"):
        cell.figure("accuracy")


def test_rows_are_chosen_by_name_or_pattern() -> None:
    paper = paper_of({"rows": ["data", "pair"]})
    assert [cell.name for cell in chosen_cells(paper, "t")] == ["c10_big", "c10_small", "c100_big", "c100_small"]
    assert [cell.name for cell in chosen_cells(paper, "t", "c100_*")] == ["c100_big", "c100_small"]
    with pytest.raises(ConfigError, match=r"^t has no row 'c10_bigg': did you mean 'c10_big'"):
        chosen_cells(paper, "t", "c10_bigg")
    with pytest.raises(UnknownNameError, match=r"^there is no table 'u' in this paper: known are t$"):
        list(cells_of(paper, "u"))
