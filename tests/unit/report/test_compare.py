"""Comparisons of several runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from raydfkd.errors import RunDirError
from raydfkd.report.compare import write_comparison
from raydfkd.report.figures import Curve
from raydfkd.testing.fake_run import write_fake_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_fake_run(folder / "a", seed=0, final_metric=0.823),
        write_fake_run(folder / "b", seed=1, method="fast", final_metric=0.781),
        write_fake_run(folder / "c", seed=2, done=0.4, state="running"),
    ]


def cells(text: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", text, flags=re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_table_curves_and_picture(runs: list[Path], tmp_path: Path) -> None:
    page = write_comparison(runs, tmp_path / "out", labels=["all", "none", "unfinished"])
    text = page.read_text(encoding="utf-8")
    header, *rows = cells(text)
    assert page == tmp_path / "out" / "comparison.html"
    assert header[:6] == ["run", "method", "seed", "steps", "accuracy, last", "accuracy, EMA"]
    assert rows[0][:6] == ["all", "ssdkd", "0", "6,000", "82.30%", "82.50%"]
    assert rows[1][:5] == ["none", "fast", "1", "6,000", "78.10%"]
    assert rows[2][0] == "unfinished (running)"
    assert rows[2][3] == "2,214"
    assert rows[0][7:10] == ["0.992", "22 min 00 s", "15 min 02 s"]
    assert text.count("<svg") == 2
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        assert all(label in svg for label in ("all", "none", "unfinished", "teacher, 88.8%"))
    assert not re.search(r"https?://", text)
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_one_label_are_seeds_of_one_setting(tmp_path: Path) -> None:
    metrics = (0.80, 0.82, 0.87)
    seeds = [write_fake_run(tmp_path / f"s{i}", seed=i, final_metric=metric) for i, metric in enumerate(metrics)]
    other = write_fake_run(tmp_path / "other", seed=0, final_metric=0.9)
    running = write_fake_run(tmp_path / "running", seed=3, done=0.4, state="running")
    labels = ["all", "all", "all", "none", "all"]
    text = write_comparison([*seeds, other, running], tmp_path / "out", labels=labels).read_text(encoding="utf-8")
    rows = cells(text)
    assert rows[0][:3] == ["setting", "runs", "accuracy, last"]
    deviation = (sum((m - 0.83) ** 2 for m in metrics) / 2) ** 0.5
    assert rows[1][:3] == ["all", "3", f"83.00 ± {100 * deviation:.2f}%"]
    assert rows[2][:3] == ["none", "1", "90.00%"]
    assert float(rows[1][5].split(" ")[0]) == pytest.approx(88.8 - 83.0, abs=0.06)
    assert [row[0] for row in rows[4:]] == ["all", "all", "all", "all (running)", "none"]


def test_the_curve_of_seeds_is_their_mean_within_their_range() -> None:
    curve = Curve.of(np.array([1.0, 2.0]), np.array([[0.1, 0.5], [0.3, 0.7], [0.2, 0.9]]))
    np.testing.assert_allclose([curve.mean, curve.low, curve.high], [[0.2, 0.7], [0.1, 0.5], [0.3, 0.9]])


def test_equal_names_are_told_apart(runs: list[Path], tmp_path: Path) -> None:
    text = write_comparison([runs[0], runs[2], runs[2]], tmp_path).read_text(encoding="utf-8")
    labels = [row[0] for row in cells(text)[1:]]
    assert labels == ["a", "c, seed 2, #2 (running)", "c, seed 2, #3 (running)"]


def test_runs_without_evaluation_have_a_table_only(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run")
    kept = [line for line in (run / "metrics.jsonl").read_text().splitlines() if json.loads(line)["kind"] != "evaluation"]
    (run / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    text = write_comparison([run], tmp_path / "out").read_text(encoding="utf-8")
    assert "<svg" not in text
    assert "there are no curves" in text
    assert not (tmp_path / "out" / "curves.png").exists()


def test_mistakes_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="at least one run"):
        write_comparison([], tmp_path)
    with pytest.raises(RunDirError, match="3 runs got 1 labels"):
        write_comparison(runs, tmp_path, labels=["one"])
    with pytest.raises(RunDirError, match="is not a run directory"):
        write_comparison([tmp_path / "nothing"], tmp_path)
