"""What Prometheus would read of a run."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
import ray
from bench import bench
from tiny_experiment import BATCH_SIZE, experiment, wait_until

from raydfkd.metrics import exported

pytestmark = pytest.mark.usefixtures("no_actor_left")

RECORDS = {
    "throughput": {
        "images_distilled_since": 64,
        "student_wait_data_s": 0.5, "student_wait_limiter_s": 0.25, "student_wait_students_s": 0.125,
    },
    "distillation": {"kd_loss": 0.5, "item_age": 3.0},
    "generators": {"source": "inversion", "target": 3, "running": 2, "pending": 1},
    "event": {"message": "replay actor restarted", "restart": True},
    "synthesis": {
        "generator_id": "inversion-9", "num_images": 8, "seconds": 1.5,
        "generator_wait_limiter_s": 0.5, "generator_wait_weights_s": 0.25,
    },
}  # fmt: skip


def scraped() -> str:
    """The text at the node's metrics port."""
    [node] = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def lines_of(text: str, metric: str) -> list[str]:
    """Samples of one metric of this test's run; a counter's name ends in ``_total``."""
    names = (f"ray_{metric}{{", f"ray_{metric}_total{{")
    return [line for line in text.splitlines() if line.startswith(names) and 'run="watched"' in line]


def test_every_metric_of_the_table_is_at_the_endpoint(teacher: Path, tmp_path: Path) -> None:
    with bench(experiment(teacher), tmp_path / "watched") as actors:
        for kind, values in RECORDS.items():
            ray.get(actors.coordinator.push.remote(kind, 8, values))
        actors.generator("inversion-0")
        client = actors.client()
        client.next(0, 0)
        assert actors.stats()["inserts"] >= 4 * BATCH_SIZE
        text = ""

        def missing() -> list[str]:
            nonlocal text
            text = scraped()
            return [export.name for _, export in exported() if not lines_of(text, export.name)]

        wait_until(lambda: not missing(), 90, lambda: f"not exported: {missing()}")
    [running] = lines_of(text, "raydfkd_generators_running")
    assert 'source="inversion"' in running
    assert running.endswith(" 2.0")
    synthesized = [line for line in lines_of(text, "raydfkd_images_synthesized") if 'generator="inversion-9"' in line]
    assert len(synthesized) == 1
    assert synthesized[0].endswith(" 8.0")
