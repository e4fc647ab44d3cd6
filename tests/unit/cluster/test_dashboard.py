"""The committed Grafana dashboard is the generated one, and shows every exported metric as what it is."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from raydfkd.cli.dashboard import dashboard_text, series_name
from raydfkd.cli.main import app
from raydfkd.metrics import exported

COMMITTED = Path(__file__).parents[3] / "cluster" / "grafana" / "dashboard.json"
DASHBOARD = json.loads(dashboard_text())
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]


def queried(texts: list[str]) -> list[str]:
    return [name for text in texts for name in re.findall(r"\bray_\w+", text)]


def test_the_committed_dashboard_is_the_newest() -> None:
    advice = "write it anew: raydfkd config dashboard --out cluster/grafana/dashboard.json"
    assert COMMITTED.read_text(encoding="utf-8") == dashboard_text(), advice


def test_it_is_written_where_asked(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["config", "dashboard", "--out", str(tmp_path / "d.json")])
    assert (done.exit_code, done.stdout) == (0, f"dashboard: {tmp_path / 'd.json'}\n")
    assert (tmp_path / "d.json").read_text(encoding="utf-8") == dashboard_text()
    assert CliRunner().invoke(app, ["config", "dashboard"]).stdout == dashboard_text()


def test_every_metric_is_queried_once_and_no_other() -> None:
    names = queried([target["expr"] for target in TARGETS])
    assert sorted(names) == sorted(series_name(export) for _, export in exported())
    variables = [json.dumps(one["query"]) for one in DASHBOARD["templating"]["list"]]
    assert len(queried(variables)) == 1
    assert set(queried(variables)) <= set(names)


def test_counters_are_queried_as_rates_and_gauges_are_not() -> None:
    for target in TARGETS:
        expression = target["expr"]
        (name,) = queried([expression])
        is_rate = re.search(rf"(?:rate|increase)\({name}\{{[^}}]*\}}\[\w+\]\)", expression) is not None
        assert is_rate is name.endswith("_total"), expression
        assert expression.count("(") == expression.count(")")
        assert expression.count("{") == expression.count("}")
        assert '{run=~"$run"}' in expression


def test_a_legend_names_what_its_lines_are_told_apart_by() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            (tags,) = re.findall(r"by \(([^)]*)\)", target["expr"])
            assert re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]) == tags.split(", ")
        assert len({target["legendFormat"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_lie_side_by_side_and_read_the_chosen_source() -> None:
    def area(panel: dict[str, Any]) -> tuple[range, range]:
        place = panel["gridPos"]
        return range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])

    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"].endswith(".")
        assert area(panel)[0].stop <= 24
    for one, other in combinations(DASHBOARD["panels"], 2):
        (x, y), (u, v) = area(one), area(other)
        assert not (set(x) & set(u) and set(y) & set(v)), (one["title"], other["title"])


def test_what_belongs_together_shares_a_panel() -> None:
    shared = {panel["title"]: len(panel["targets"]) for panel in DASHBOARD["panels"] if len(panel["targets"]) > 1}
    assert shared == {"Generators": 3, "Images per second": 2, "Waiting, by side and cause": 5, "Age of images": 2}


def test_it_has_what_grafana_needs_to_load_it() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= DASHBOARD.keys()
    assert [one["type"] for one in DASHBOARD["templating"]["list"]] == ["datasource", "query"]
