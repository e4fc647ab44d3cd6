"""Reading metrics.jsonl, whole or as it grows, and the quantities that its readers share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydfkd.errors import RunDirError
from raydfkd.run_records import RecordReader, RunTotals, by_owner, rates


def line(step: int, **values: Any) -> str:
    return json.dumps({"kind": "replay", "time_s": 1, "step": step, **values}) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_each_read_gets_what_was_added_and_a_torn_line_waits(path: Path) -> None:
    reader = RecordReader(path)
    assert list(reader.read()) == []
    append(path, line(1) + line(2)[:9])
    assert [r["step"] for r in reader.read()] == [1]
    assert list(reader.read()) == []
    append(path, line(2)[9:] + line(3))
    assert [r["step"] for r in reader.read()] == [2, 3]
    assert not reader.is_rewound
    path.write_text(line(1))
    assert reader.is_rewound


@pytest.mark.parametrize(
    "damaged", ["{", "[1]", "7", '{"kind": "replay"}', '{"kind": "replay", "time_s": "x", "step": 1}', "\xff"]
)
def test_a_damaged_line_is_named_or_where_that_is_wanted_counted(path: Path, damaged: str) -> None:
    path.write_bytes((line(1) + damaged + "\n" + line(2)).encode("latin-1"))
    with pytest.raises(
        RunDirError, match=r"metrics\.jsonl, line 2 is not a metrics record \(.*\): the file is damaged, delete"
    ):
        list(RecordReader(path).read())
    reader = RecordReader(path, tolerant=True)
    assert [r["step"] for r in reader.read()] == [1, 2]
    assert reader.damaged == 1


def test_records_are_grouped_by_their_owner() -> None:
    named = [{"student": "b"}, {}, {"student": "a"}]
    found = by_owner(named, "evaluation", ["b", "c", "a"])
    assert list(found.items()) == [("b", [{"student": "b"}, {}]), ("a", [{"student": "a"}])], "in the given order, c has none"
    assert list(by_owner([{}], "evaluation", [])) == ["student"]
    batches = [{"generator_id": "g-1"}, {"generator_id": "g-0"}]
    assert list(by_owner(batches, "synthesis", ["a"])) == ["g-0", "g-1"]
    assert by_owner([{"size": 1}], "replay", ["a"]) == {"": [{"size": 1}]}


def test_rates_are_amounts_over_equal_spans() -> None:
    seconds = np.arange(0.0, 101.0)
    amounts = np.where(seconds <= 50, 2.0, 8.0)
    at, per_s = rates(seconds, amounts)
    assert len(at) == 25
    assert per_s[0] == pytest.approx(2.0, rel=0.4)
    assert per_s[-1] == pytest.approx(8.0, rel=0.4)
    assert (per_s * np.diff(at, prepend=0.0)).sum() == pytest.approx(amounts[1:].sum()), "nothing is lost between spans"


def test_rates_of_too_little_are_empty() -> None:
    for seconds in (np.empty(0), np.array([3.0]), np.array([3.0, 3.0])):
        at, per_s = rates(seconds, np.ones(len(seconds)))
        assert len(at) == len(per_s) == 0


def test_few_records_have_one_span_and_so_have_many_where_that_is_asked() -> None:
    for num_spans, seconds in ((None, [10.0, 15.0, 20.0]), (1, np.linspace(10.0, 20.0, 40).tolist())):
        at, per_s = rates(np.array(seconds), np.full(len(seconds), 60.0 / (len(seconds) - 1)), num_spans)
        assert at.tolist() == [20.0]
        assert per_s.tolist() == pytest.approx([6.0])


def test_nothing_recorded_is_nothing_spent() -> None:
    totals = RunTotals.of([])
    assert totals.as_result() == {
        "synthesis_s": 0.0, "distillation_s": 0.0, "student_wait_fraction": 0.0, "generator_wait_fraction": 0.0, "restarts": 0,
    }  # fmt: skip
    assert (totals.images_synthesized, totals.images_distilled) == (0, 0)


def test_sums_over_records_of_all_students() -> None:
    records = [
        {
            "kind": "synthesis",
            "step": 0,
            "generator_id": "a-0",
            "num_images": 8,
            "seconds": 2.0,
            "generator_wait_limiter_s": 1.0,
        },
        {"kind": "preparation", "step": 0, "prepare_s": 1.5},
        {
            "kind": "synthesis",
            "step": 4,
            "generator_id": "a-1",
            "num_images": 8,
            "seconds": 4.0,
            "generator_wait_weights_s": 1.0,
        },
        {"kind": "distillation", "step": 10, "student": "x", "step_s": 0.5},
        {"kind": "distillation", "step": 10, "student": "y", "step_s": 0.125},
        {"kind": "distillation", "step": 30, "student": "x", "step_s": 0.25},
        {"kind": "throughput", "step": 30, "student": "x", "images_distilled": 240, "student_wait_data_s": 0.5},
        {"kind": "throughput", "step": 10, "student": "y", "images_distilled": 80, "student_wait_limiter_s": 2.0},
        {"kind": "throughput", "step": 40, "student": "x", "images_distilled": 320, "student_wait_data_s": None},
        {"kind": "event", "step": 0, "message": "a", "restart": True},
        {"kind": "event", "step": 0, "message": "b"},
        {"kind": "evaluation", "step": 40, "metric_last": 0.5},
    ]
    totals = RunTotals.of(records)
    worked_s = 10 * 0.5 + 20 * 0.25 + 10 * 0.125
    assert totals.as_result() == {
        "synthesis_s": 7.5,
        "distillation_s": pytest.approx(worked_s),
        "student_wait_fraction": pytest.approx(2.5 / (2.5 + worked_s)),
        "generator_wait_fraction": pytest.approx(2 / 9.5),
        "restarts": 1,
    }
    assert totals.images_by_generator == {"a-0": 8, "a-1": 8}
    assert totals.images_distilled == 400
