"""What Prometheus would read of a run at its node."""

from __future__ import annotations

import urllib.request

import ray

from raydfkd.metrics import exported


def scraped() -> str:
    """The text at the node's metrics port."""
    [node] = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def lines_of(text: str, metric: str, run: str) -> list[str]:
    """Samples of one metric of a run; a counter's name ends in ``_total``."""
    names = (f"ray_{metric}{{", f"ray_{metric}_total{{")
    return [line for line in text.splitlines() if line.startswith(names) and f'run="{run}"' in line]


def missing(text: str, run: str) -> set[str]:
    """Exported metrics of which the text has no sample of the run."""
    return {export.name for _, export in exported() if not lines_of(text, export.name, run)}
