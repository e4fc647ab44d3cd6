"""What Prometheus would read of a run in which everything happens. Of a real run: test_live_run.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from bench import bench
from prometheus import lines_of, missing, scraped
from tiny_experiment import BATCH_SIZE, experiment

from raydfkd.testing.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_actor_left")

RUN = "watched"

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


def test_every_metric_of_the_table_is_at_the_endpoint(teacher: Path, tmp_path: Path) -> None:
    with bench(experiment(teacher), tmp_path / RUN) as actors:
        for kind, values in RECORDS.items():
            ray.get(actors.coordinator.push.remote(kind, 8, values))
        actors.generator("inversion-0")
        client = actors.client()
        client.next(0, 0)
        assert actors.stats()["inserts"] >= 4 * BATCH_SIZE
        wait_until(lambda: not missing(scraped(), RUN), 300, lambda: f"not exported: {missing(scraped(), RUN)}")
        text = scraped()
    [running] = lines_of(text, "raydfkd_generators_running", RUN)
    assert 'source="inversion"' in running
    assert running.endswith(" 2.0")
    synthesized = [line for line in lines_of(text, "raydfkd_images_synthesized", RUN) if 'generator="inversion-9"' in line]
    assert len(synthesized) == 1
    assert synthesized[0].endswith(" 8.0")
