"""The Grafana dashboard, generated from the declared metrics: a panel for each, or one that several share."""

from __future__ import annotations

import json
from typing import Any

from raydfkd.metrics import Export, Metric, Panel, exported, find, tags_of

PREFIX = "ray_"
"""Ray puts it before every metric's name."""
_COLUMNS, _WIDTH, _HEIGHT = 24, 6, 8
_RATE_WINDOW = "1m"
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_UNITS = {"s": "s", "bytes": "bytes", "fraction": "percentunit"}
"""Our units as Grafana calls them; others are plain numbers."""


def dashboard_text() -> str:
    """cluster/grafana/dashboard.json."""
    panels: dict[Panel, list[tuple[Metric, Export]]] = {}
    for metric, export in exported():
        note = f" Increase over {export.increase_over}." if export.increase_over else ""
        panel = export.panel or Panel(metric.label, metric.help + note, _WIDTH)
        panels.setdefault(panel, []).append((metric, export))
    dashboard = {
        "title": "raydfkd",
        "uid": "raydfkd",
        "tags": ["ray", "raydfkd"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "templating": {"list": _variables()},
        "panels": [
            _panel(number, panel, shown, place)
            for number, ((panel, shown), place) in enumerate(zip(panels.items(), _places(panels), strict=True), 1)
        ],
    }
    return json.dumps(dashboard, indent=1) + "\n"


def series_name(export: Export) -> str:
    """What Prometheus calls an exported metric: ``_total`` stands after a counter."""
    return f"{PREFIX}{export.name}" + ("_total" if export.type == "counter" else "")


def _variables() -> list[dict[str, Any]]:
    size = find("replay", "size").export
    assert size is not None, "every run has a buffer, and exports its size"
    runs = {"query": f"label_values({series_name(size)}, run)", "refId": "run"}
    look = {"refresh": 2, "includeAll": True, "allValue": ".*", "multi": True, "current": {"text": "All", "value": "$__all"}}
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 0, "label": "Data source"},
        {"name": "run", "type": "query", "label": "Run", "datasource": _DATASOURCE, **look, "query": runs},
    ]


def _places(panels: Any) -> list[dict[str, int]]:
    """Side by side from the left, in rows."""
    places, x, y = [], 0, 0
    for panel in panels:
        if x + panel.width > _COLUMNS:
            x, y = 0, y + _HEIGHT
        places.append({"x": x, "y": y, "w": panel.width, "h": _HEIGHT})
        x += panel.width
    return places


def _panel(number: int, panel: Panel, shown: list[tuple[Metric, Export]], place: dict[str, int]) -> dict[str, Any]:
    metric, export = shown[0]
    unit = "none" if export.type == "counter" else _UNITS.get(metric.unit, "none")  # seconds per second are a plain number
    bounds = {"min": 0, **({"max": 1} if metric.unit in ("fraction", "ratio") else {})}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, **bounds}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [_target(chr(ord("A") + i), panel, *one, len(shown) > 1) for i, one in enumerate(shown)],
    }


def _target(letter: str, panel: Panel, metric: Metric, export: Export, beside_others: bool) -> dict[str, Any]:
    """A counter is added up over the generators of a source; of a gauge that two processes export the larger one counts."""
    own = [] if panel.total else [tag for tag in tags_of(metric.kind) if tag != "generator"]
    selected = f'{series_name(export)}{{run=~"$run"}}'
    if export.type == "gauge":
        expression = f"max by ({', '.join(['run', *own])}) ({selected})"
    else:
        over = f"increase({selected}[{export.increase_over}])" if export.increase_over else f"rate({selected}[{_RATE_WINDOW}])"
        expression = f"sum by ({', '.join(['run', *own])}) ({over})"
    legend = " ".join([*(f"{{{{{tag}}}}}" for tag in ["run", *own]), *([metric.name] if beside_others else [])])
    return {"refId": letter, "datasource": _DATASOURCE, "expr": expression, "legendFormat": legend}
