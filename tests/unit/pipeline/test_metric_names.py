"""The table of exported metrics, and what each record says of them."""

from __future__ import annotations

import re
from typing import Any

from raydfkd.metrics import METRICS, readings, tags_of

RECORDS: dict[str, dict[str, Any]] = {
    "synthesis": {
        "generator_id": "my-source-3",
        "num_images": 32,
        "seconds": 0.5,
        "generator_wait_limiter_s": 1.0,
        "generator_wait_weights_s": 2.0,
        "loss": 3.0,
    },
    "throughput": {
        "images_distilled": 640,
        "images_distilled_since": 64,
        "student_wait_data_s": 0.25,
        "student_wait_limiter_s": 0.5,
        "student_wait_students_s": 0.5,
        "rss_bytes": 1,
    },
    "distillation": {"kd_loss": 0.7, "item_age": 4.0, "lr": 0.1},
    "replay": {
        "size": 50,
        "capacity": 200,
        "bytes": 1000,
        "item_age_mean": 2.0,
        "class_entropy": 0.9,
        "priority_mean": 0.1,
        "staleness_rounds": 1.5,
        "class_counts": [1, 2],
    },
    "generators": {"source": "my-source", "target": 3, "running": 2, "starting": 0, "pending": 1, "draining": 0},
    "event": {"message": "replay actor restarted", "restart": True},
}


def told() -> dict[str, tuple[dict[str, str], float]]:
    return {name: (tags, v) for kind, values in RECORDS.items() for name, tags, v in readings(kind, 7, values, "small")}


def test_every_metric_is_told_by_some_record_and_every_told_one_is_in_the_table() -> None:
    assert told().keys() == METRICS.keys()


def test_tags_are_those_that_the_metric_was_made_with() -> None:
    for name, (tags, _) in told().items():
        assert tuple(tags) == tags_of(name), name


def test_values() -> None:
    values = told()
    assert values["raydfkd_images_made"] == ({"source": "my-source", "generator": "my-source-3"}, 32.0)
    assert values["raydfkd_images_eaten"] == ({"student": "small"}, 64.0), "a counter gets what came since the last record"
    assert values["raydfkd_student_steps"] == ({"student": "small"}, 7.0)
    assert values["raydfkd_buffer_fill_ratio"] == ({}, 0.25)
    assert values["raydfkd_generators_pending"] == ({"source": "my-source"}, 1.0)
    assert values["raydfkd_restarts"] == ({}, 1.0)


def test_a_record_that_names_its_student_is_that_ones() -> None:
    [*_, (_, tags, _)] = readings("distillation", 1, {"kd_loss": 1.0, "student": "large"}, "small")
    assert tags == {"student": "large"}


def test_what_is_not_a_number_or_not_known_is_left_out() -> None:
    assert list(readings("event", 0, {"message": "resumed"}, "s")) == []
    assert list(readings("evaluation", 0, {"metric_last": 0.5}, "s")) == []
    assert list(readings("distillation", 0, {"kd_loss": None}, "s")) == []


def test_names_and_units_are_as_prometheus_wants_them() -> None:
    for name, (kind, description) in METRICS.items():
        assert re.fullmatch(r"raydfkd_[a-z_]+[a-z]", name)
        assert kind in ("gauge", "counter")
        assert description.endswith(".")
        assert not name.endswith("_total"), "the exporter adds that"
