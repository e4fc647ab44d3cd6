"""Papers as files: what they must say, and what is said of their mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydfkd.errors import ConfigError, UnknownNameError
from raydfkd.papers.paper import PaperConfig, load_paper, shipped_folder, shipped_papers
from raydfkd.pipeline.experiment.yaml_files import dump_yaml, validate

TREE: dict[str, Any] = {
    "paper": {"title": "A paper"},
    "base": {"experiment": {"x": 1}},
    "axes": {"data": {"one": None, "two": {"title": "Two"}}, "method": {"new": None, "old": {"settings": None}}},
    "tables": {"table1": {"title": "All", "source": "Table 1", "rows": ["data"], "columns": ["method"]}},
}


def changed(**sections: Any) -> dict[str, Any]:
    return {**TREE, **sections}


def with_table(**settings: Any) -> dict[str, Any]:
    return changed(tables={"table1": {**TREE["tables"]["table1"], **settings}})


def test_a_member_without_settings_changes_nothing_and_one_of_null_is_not_ours() -> None:
    paper = PaperConfig.model_validate(TREE)
    assert paper.member("data", "one").settings == paper.member("data", "two").settings == {}
    assert paper.member("data", "two").title == "Two"
    assert paper.member("method", "old").settings is None


def test_a_table_has_all_members_of_an_axis_or_those_that_it_names_in_its_order() -> None:
    paper = PaperConfig.model_validate(with_table(only={"data": ["two", "one"]}))
    table = paper.table("table1")
    assert (paper.members(table, "data"), paper.members(table, "method")) == (("two", "one"), ("new", "old"))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (with_table(rows=["dat"]), "tables.table1: there is no axis 'dat': did you mean 'data'?"),
        (with_table(columns=["data"]), "rows ['data'] and columns ['data'] name an axis twice"),
        (with_table(only={"data": ["three"]}), "tables.table1.only: axis data has no member 'three': known are one, two"),
        (with_table(only={"images": ["one"]}), "tables.table1.only: there is no axis 'images'"),
        (
            with_table(absent=[{"data": ["one", "tow"]}]),
            "tables.table1.absent: axis data has no member 'tow': did you mean 'two'?",
        ),
        (changed(cases=[{"where": {"method": "newer"}, "settings": {}}]), "cases.0.where: axis method has no member 'newer'"),
        (changed(cases=[{"where": {}, "settings": {}}]), "cases.0.where"),
        (with_table(kind="figure"), "tables.table1.kind"),
        (changed(tables={"../../x": TREE["tables"]["table1"]}), "table '../../x' cannot be used in file names: use up to 100"),
        (changed(axes={**TREE["axes"], "data": {"../x": None}}), "data member '../x' cannot be used in file names"),
        (with_table(figures={}), "figures"),
    ],
)
def test_a_mistake_is_told_in_one_sentence_with_its_place(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(PaperConfig, tree, "own.yaml")
    assert str(raised.value).startswith("own.yaml: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_unknown_table_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"^there is no table 'table2' in this paper: did you mean 'table1'\?$"):
        PaperConfig.model_validate(TREE).table("table2")


def test_papers_are_found_by_name_and_one_s_own_by_file(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    paper = PaperConfig.model_validate(TREE)
    own.write_text(dump_yaml(paper))
    assert load_paper(str(own)) == paper
    names = [path.stem for path in shipped_papers()]
    assert names == ["baselines", "cde", "hidfd", "laptop", "ssdkd", "surrogate", "teachers"]
    assert load_paper("ssdkd") == load_paper(str(shipped_folder() / "ssdkd.yaml"))


def test_an_unknown_paper_is_told_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"^there is no paper 'ssd-kd': did you mean 'ssdkd'\?, or give a YAML file of your own$"
    ):
        load_paper("ssd-kd")
    with pytest.raises(ConfigError, match=r"^nowhere\.yaml does not exist: give the path of a YAML file$"):
        load_paper("nowhere.yaml")
