"""The declared metrics, what each record says of them, and that a declaration is all that a new one needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from raydfkd import metrics
from raydfkd.cli.dashboard import dashboard_text
from raydfkd.cli.live_state import RunStatus
from raydfkd.metrics import Export, Figure, Metric, Plot, exported, readings, scalars, tags_of, waited_s
from raydfkd.report.loading import load_run
from raydfkd.report.training_sections import distillation
from raydfkd.run_dir import RunDir
from raydfkd.testing.fake_run import write_fake_run

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
        "fill": 0.25,
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
ADDED = Metric(
    "distillation", "teacher_entropy", "Entropy of the teacher", "Mean entropy of its predictions, by student.",
    plot=Plot("distillation", over="steps"), export=Export("raydfkd_teacher_entropy", "gauge"), status="teacher_entropy",
)  # fmt: skip


def read() -> dict[str, tuple[str, dict[str, str], float]]:
    """By name: kind, tags and value."""
    return {name: (kind, tags, v) for kind, values in RECORDS.items() for name, tags, v in readings(kind, 7, values, "small")}


def test_every_exported_metric_is_read_from_a_record() -> None:
    assert read().keys() == {export.name for _, export in exported()}


def test_tags_are_those_that_the_metric_was_made_with() -> None:
    for name, (kind, tags, _) in read().items():
        assert tuple(tags) == tags_of(kind), name


def test_values() -> None:
    values = {name: (tags, value) for name, (_, tags, value) in read().items()}
    assert values["raydfkd_images_synthesized"] == ({"source": "my-source", "generator": "my-source-3"}, 32.0)
    assert values["raydfkd_images_distilled"] == ({"student": "small"}, 64.0), "a counter gets what came since the last record"
    assert values["raydfkd_student_steps"] == ({"student": "small"}, 7.0)
    assert values["raydfkd_buffer_fill_ratio"] == ({}, 0.25)
    assert values["raydfkd_generators_pending"] == ({"source": "my-source"}, 1.0)
    assert values["raydfkd_restarts"] == ({}, 1.0)


def test_a_record_that_names_its_student_belongs_to_it() -> None:
    [*_, (_, tags, _)] = readings("distillation", 1, {"kd_loss": 1.0, "student": "large"}, "small")
    assert tags == {"student": "large"}


def test_what_is_not_a_number_or_not_declared_is_left_out() -> None:
    assert list(readings("event", 0, {"message": "resumed"}, "s")) == []
    assert list(readings("evaluation", 0, {"metric_last": 0.5}, "s")) == []
    assert list(readings("distillation", 0, {"kd_loss": None, "unheard_of": 1.0}, "s")) == []


def test_declarations_are_unique_and_named_as_prometheus_wants_them() -> None:
    places = [(metric.kind, metric.key) for metric in metrics.METRICS]
    names = [export.name for _, export in exported()]
    assert len(set(places)) == len(places)
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"raydfkd_[a-z_]+[a-z]", name)
        assert not name.endswith("_total"), "the exporter adds that"
    assert all(metric.help.endswith(".") for metric in metrics.METRICS)


def test_waits_are_told_apart_by_side_and_only_numbers_count() -> None:
    values = {"generator_wait_limiter_s": 1.0, "student_wait_data_s": 2.0, "student_wait_limiter_s": None, "seconds": 4.0}
    assert waited_s("throughput", values) == {"student_wait_data_s": 2.0}
    assert waited_s("synthesis", values) == {"generator_wait_limiter_s": 1.0}
    assert waited_s("replay", values) == {}


@pytest.mark.parametrize(
    ("kind", "values", "by_student", "curves"),
    [
        ("replay", {"size": 5, "class_counts": [5], "ok": True}, False, {"replay/size": 5}),
        ("synthesis", {"generator_id": "a-0", "own_loss": 2.0}, False, {"synthesis/a-0/own_loss": 2.0}),
        ("preparation", {"generator_id": "a-0", "done": 3}, False, {"preparation/a-0/done": 3}),
        ("generators", {"source": "a", "running": 2}, False, {"generators/a/running": 2}),
        ("evaluation", {"student": "s", "metric_last": 0.5}, False, {"evaluation/metric_last": 0.5}),
        ("evaluation", {"student": "s", "metric_last": 0.5}, True, {"evaluation/s/metric_last": 0.5}),
        ("event", {"message": "x", "restart": True}, False, {}),
    ],
)
def test_every_number_of_a_record_is_a_curve_of_its_owner(
    kind: str, values: dict[str, Any], by_student: bool, curves: dict[str, float]
) -> None:
    assert dict(scalars({"kind": kind, "time_s": 1.0, "step": 2, **values}, by_student)) == curves


def test_a_declared_metric_is_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that a record has, and one entry of the table."""
    run = RunDir(write_fake_run(tmp_path / "run", done=0.2, state="running"))
    more = {"teacher_entropy": 0.5, "student": "small"}
    records = [{**record, **more} if record["kind"] == "distillation" else record for record in run.metrics()]
    run.metrics_path.write_text("".join(json.dumps(record) + "\n" for record in records))
    newest = [record for record in records if record["kind"] == "distillation"][-1]

    def places() -> dict[str, bool]:
        status = RunStatus(run)
        status.refresh()
        return {
            "Prometheus": ("raydfkd_teacher_entropy", {"student": "small"}, 0.5)
            in list(readings("distillation", 8, newest, "small")),
            "report": any(">Entropy of the teacher<" in plot for plot in distillation(load_run(run.path)).plots),
            "Grafana": "ray_raydfkd_teacher_entropy" in dashboard_text(),
            "status": status.students()[0].get("teacher_entropy") == 0.5,
        }

    assert not any(places().values())
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, ADDED))
    assert all(places().values()), places()
    assert ("distillation/teacher_entropy", 0.5) in list(scalars(newest, by_student=False)), "TensorBoard and MLflow"


def test_a_figure_comes_back_from_json() -> None:
    figure = Figure("Discriminator", {"real_confidence": "real images"}, percent=True)
    assert Figure.from_json(json.loads(json.dumps(figure.as_json()))) == figure
    assert len(dict.fromkeys([figure, Figure("Discriminator", {"real_confidence": "real images"}, percent=True)])) == 1


@pytest.mark.parametrize(
    "value", [None, [], {"title": "x"}, {"curves": {"a": "b"}}, {"title": 1, "curves": {}}, {"title": "x", "curves": ["a"]}]
)
def test_what_is_no_figure_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="needs a title and curves"):
        Figure.from_json(value)
