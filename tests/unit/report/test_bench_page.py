"""The page of a bench, from its result."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from raydfkd.errors import RunDirError
from raydfkd.report.bench.bench_page import is_bench, write_bench_page
from raydfkd.run_dir import RunDir


def method(name: str, end: str | None, last: float | None, **values: Any) -> dict[str, Any]:
    points = [] if last is None else [(10.0, 1000, last / 2), (30.0, 3000, last)]
    keys = ("trained_s", "student_images", "last")
    return {
        "method": name, "title": name, "end": end, "reason": None, "planned": {}, "last": last, "average": last,
        "agreement": last, "trained_s": 30.0 if last else None, "student_images": 3000 if last else None,
        "student_steps": 30, "total_steps": 30, "images_synthesized": 500 if last else None, "synthesis_s": 5.0,
        "distillation_s": 15.0, "class_entropy": 0.97, "batch_size": 100 if last else None, "lr": 0.078,
        "source": {"method": name, "batch_size": 100, "latent_dim": 64},
        "curve": [dict(zip(keys, point, strict=True)) for point in points], **values,
    }  # fmt: skip


OUTCOME = {
    "state": "finished",
    "budget": {"minutes": 0.5, "images": None},
    "teacher": {"model": "small_cnn_32", "sha256": "a" * 64},
    "teacher_metric": 0.98,
    "metric_label": "accuracy",
    "measured_on": "digits, split test, for reporting only",
    "student": "small_cnn_16",
    "seed": 0,
    "rule": "One rule for all.",
    "methods": [
        method("ssdkd", "finished", 0.95),
        method("zskt", "collapsed", 0.2, reason="source 'images' collapses onto few classes"),
        method("hidfd", "skipped", None, reason="source 'images' trains on real images: name them in collected"),
    ],
    "leaders": [{"share": 0.5, "method": "zskt", "last": 0.1}, {"share": 1.0, "method": "ssdkd", "last": 0.95}],
}


def test_a_user_sees_what_is_best_when_and_why_others_ended(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.update_manifest(kind="bench", state="finished")
    run.write_result(OUTCOME)
    assert is_bench(tmp_path)
    text = write_bench_page(tmp_path).read_text(encoding="utf-8")
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", text, flags=re.DOTALL)]
    ssdkd = next(row for row in rows if row[:1] == ["ssdkd"])
    assert ssdkd == ["ssdkd", "finished", "95.00%", "95.00%", "95.00%", "−3.00", "30 s", "3,000", "500", "100", "0.078"]
    assert [row[0] for row in rows if row][:2] == ["ssdkd", "zskt"], "best first, and no row of figures for what was skipped"
    assert ["hidfd", "skipped", "source &#39;images&#39; trains on real images: name them in collected"] in rows
    assert "One rule for all." in text
    assert re.search(r"accuracy after 15 s.*?10\.00%.*?zskt", text, flags=re.DOTALL)
    assert re.search(r"accuracy after 30 s.*?95\.00%.*?ssdkd", text, flags=re.DOTALL)
    (svg,) = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert all(label in svg for label in ("ssdkd", "zskt", "teacher, 98.0%", "time in seconds", "student images"))
    assert not re.search(r"https?://", text)


def test_costs_are_by_image(tmp_path: Path) -> None:
    RunDir(tmp_path).write_result(OUTCOME)
    text = write_bench_page(tmp_path).read_text(encoding="utf-8")
    assert re.search(r"<td>ssdkd</td><td>10 s</td><td>5.00 s</td><td>25%</td><td>0.970</td><td>latent_dim 64</td>", text)


def test_without_a_result_there_is_no_page(tmp_path: Path) -> None:
    assert not is_bench(tmp_path)
    with pytest.raises(RunDirError, match="no result"):
        write_bench_page(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({**OUTCOME, "methods": [], "leaders": []}))
    assert "<svg" not in write_bench_page(tmp_path).read_text(encoding="utf-8")
