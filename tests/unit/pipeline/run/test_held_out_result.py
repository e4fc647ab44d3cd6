"""A run without labelled images reports its student's agreement with the teacher on held-out ones."""

from __future__ import annotations

from pathlib import Path

from tiny_run import experiment

from raydfkd.pipeline.experiment.config import build_experiment
from raydfkd.pipeline.run.execute import execute
from raydfkd.pipeline.sweep.held_out_images import make_held_out
from raydfkd.replay.arrow import to_parquet
from raydfkd.run_dir import RunDir


def test_the_result_has_the_last_measured_agreement(teacher: Path, tmp_path: Path) -> None:
    import torch

    tree = {**experiment(teacher), "evaluation": None}
    held_out = tmp_path / "held_out.parquet"
    held_out.write_bytes(to_parquet(make_held_out(build_experiment(tree), 40, 0, torch.device("cpu"))))
    config = build_experiment({**tree, "held_out": {"path": str(held_out)}})
    run = RunDir.create(tmp_path / "run")
    result = execute(config, run, resume=False, watcher=None, run_ray=lambda *arguments: None)
    measured = [record["agreement_last"] for record in run.metrics("held_out")]
    assert 0 < measured[-1] <= 1
    assert result["student"]["agreement"] == measured[-1]
    assert result["student"]["metric_last"] is None
