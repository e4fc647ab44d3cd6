"""What a run leaves of networks with two features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_run import experiment

from raydfkd.api import distill


def test_the_plane_of_a_student_with_two_features_gives_its_accuracy(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydfkd.report.html.write_report", lambda path: path / "report.html")
    result = distill(experiment(teacher), overrides=["students.small.model=planar_cnn_4"], out=tmp_path / "run")
    with np.load(tmp_path / "run" / "analysis" / "planes.npz") as arrays:
        assert arrays["network"].tolist() == ["student small"], "its teacher has more than two"
        assert arrays["synthetic_features"].shape == (1, 40, 2)
        logits = arrays["real_features"][0] @ arrays["weight"][0].T + arrays["bias"][0]
        accuracy = np.mean(logits.argmax(1) == arrays["real_class"])
    assert accuracy == pytest.approx(result.result["student"]["metric_last"])
