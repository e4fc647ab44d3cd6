"""``raydfkd bench`` on digits without Ray: what it runs, keeps, says and refuses, and what it sends to a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from raydfkd.testing.command import invoke as raydfkd

EXPERIMENT = {
    "task": {"num_classes": 10, "image_shape": [1, 8, 8]},
    "teacher": {"model": "small_cnn_8", "checkpoint": "teacher.safetensors"},
    "sources": {"inversion": {"method": "ssdkd", "batch_size": 16}},
    "replay": {"synthetic": {"capacity": 64}},
    "students": {"small": {"model": "small_cnn_4", "batch_size": 16}},
    "evaluation": {"dataset": {"kind": "digits", "max_images": 60}},
    "runtime": {"runner": "local", "device": "cpu", "bf16": False},
}
IMAGES = 16 * 20 * 4


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment in the working directory; its teacher has random weights."""
    from raydfkd.models.catalog import build_classifier
    from raydfkd.models.weights import save_weights

    monkeypatch.chdir(tmp_path)
    metadata = {"mean": "[0.3]", "std": "[0.4]", "image_shape": "[1, 8, 8]", "num_classes": "10"}
    save_weights(build_classifier("small_cnn_8", 10, (1, 8, 8)), tmp_path / "teacher.safetensors", metadata)
    (tmp_path / "exp.yaml").write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    return tmp_path


def test_a_bench_shows_its_methods_and_continues(folder: Path) -> None:
    arguments = ("bench", "exp.yaml", "runtime.seed=2", "--methods", "fast,hidfd", "--images", IMAGES)
    said = raydfkd(*arguments)
    assert "hidfd: skipped: " in said
    (row,) = [line for line in said.splitlines() if line.startswith("fast  ")]
    assert f"{IMAGES:,}" in row
    assert f"best after {IMAGES:,} student images: fast" in said
    result = json.loads((folder / "runs/bench-exp/result.json").read_text())
    assert [(one["method"], one["end"]) for one in result["methods"]] == [("fast", "finished"), ("hidfd", "skipped")]
    assert result["seed"] == 2
    assert "fast: ended before" in raydfkd(*arguments)
    page = folder / "runs/bench-exp/bench.html"
    page.unlink()
    assert str(page.relative_to(folder)) in raydfkd("report", "runs/bench-exp")
    assert page.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "zkst"), "did you mean 'zskt'"),
        (("--minutes", "1", "--images", "9"), "--minutes and --images are both given"),
        (("evaluation=null",), "nothing to measure students on"),
        (("teacher.checkpoint=none.safetensors",), "none.safetensors"),
        (("--out", "exp.yaml"), "is a file"),
    ],
)
def test_mistakes(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    told = raydfkd("bench", "exp.yaml", *arguments, rc=2)
    assert said in told
    assert told.count("\n") == 1
    assert not (folder / "runs").exists()


def test_where_nothing_can_be_run_it_fails(folder: Path) -> None:
    told = raydfkd("bench", "exp.yaml", "--methods", "fast", "--images", "100", rc=1)
    assert "none of these methods ran to an end: fast" in told


def test_each_method_is_sent_to_a_cluster_as_a_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("raydfkd.runtime.jobs.job_client.connect", lambda address, environment: SimpleNamespace())
    monkeypatch.setattr("raydfkd.runtime.jobs.job_submission.forget_ended", lambda client, job_id: None)
    monkeypatch.setattr("raydfkd.runtime.jobs.job_submission.submit", lambda client, job: sent.append(job) or True)
    out = folder / "shared" / "bench"
    (out / "methods").mkdir(parents=True)
    (out / "methods/dfad.json").write_text(json.dumps({"method": "dfad", "end": "finished"}))
    arguments = (
        "bench",
        "exp.yaml",
        "runtime.seed=2",
        "--methods",
        "fast,dfad,zskt",
        "--minutes",
        "2",
        "--address",
        "http://x",
    )
    said = raydfkd(*arguments, "--out", out)
    assert "dfad: ended before" in said
    assert [job.job_id for job in sent] == ["bench-fast", "bench-zskt"]
    words = sent[0].command
    assert words[:4] == ("raydfkd", "bench", "exp.yaml", "runtime.seed=2")
    assert words[-7:] == ("--methods", "fast", "--minutes", "2", "--out", str(out), "--no-page")
    assert (sent[0].out, sent[0].num_cpus) == (out / "methods/fast", 1)
    assert folder / "exp.yaml" in sent[0].named
    assert folder / "teacher.safetensors" in sent[0].named
    assert "absolute path" in raydfkd(*arguments, rc=2)
