"""A run all of whose records bear one time, as those of a short run may: numbers that need two times are left out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from raydfkd.cli.progress_state import ProgressState, plain_line, table_rows
from raydfkd.report.compare import write_comparison
from raydfkd.report.html import write_report
from raydfkd.testing.fake_run import write_fake_run


def run_of_one_moment(path: Path, time_s: float) -> Path:
    """A fake run with every record at ``time_s``."""
    run = write_fake_run(path, done=0.2, state="running")
    records = [json.loads(line) | {"time_s": time_s} for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


MOMENTS = pytest.mark.parametrize("time_s", [0.0, 7.0])


@MOMENTS
def test_it_is_reported(tmp_path: Path, time_s: float) -> None:
    run = run_of_one_moment(tmp_path / "run", time_s)
    with np.errstate(all="raise"):
        text = write_report(run).read_text(encoding="utf-8")
        write_comparison([run, run], tmp_path / "comparison")
    plain = re.sub(r"base64,[\w+/=\s]+|<style>.*?</style>", "", text, flags=re.DOTALL)
    assert not re.search(r"\b(?:nan|inf)\b", plain, re.IGNORECASE)
    assert 'id="distillation"' in text


@MOMENTS
def test_its_progress_is_shown(tmp_path: Path, time_s: float) -> None:
    state = ProgressState(total_steps=6000)
    for line in (run_of_one_moment(tmp_path / "run", time_s) / "metrics.jsonl").read_text().splitlines():
        state.take(json.loads(line))
        shown = plain_line(state) + str(table_rows(state))
        assert not re.search(r"\b(?:nan|inf)\b", shown, re.IGNORECASE)
    assert (state.steps_per_s, state.time_left_s, state.synthesized_per_s) == (None, None, None)
