"""Notices of collapse in the records of whole runs: none of one that learns, early ones of a generator without any guidance."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import experiment

from raydfkd.api import distill
from raydfkd.run_dir import RunDir


def notices(teacher: Path, out: Path, *overrides: str) -> list[str]:
    distill(experiment(teacher), overrides=["schedule.rounds=30", *overrides], out=out)
    return [str(record["message"]) for record in RunDir(out).metrics("event")]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydfkd.report.html.write_report", lambda path: path / "report.html")


def test_a_healthy_run_of_ssdkd_on_digits_gives_no_notice(teacher: Path, tmp_path: Path) -> None:
    assert notices(teacher, tmp_path / "run") == []


def test_a_generator_that_nothing_guides_is_noticed_in_its_first_tenth(teacher: Path, tmp_path: Path) -> None:
    unguided = [f"sources.inversion.{name}_weight=0" for name in ("bn", "one_hot", "adversarial")]
    (few, *_) = notices(teacher, tmp_path / "run", *unguided)
    assert few.startswith("warning: source 'inversion' collapses onto few classes: ")
    assert few.endswith("raise sources.inversion.bn_weight or lower sources.inversion.generator_lr") or "bn_weight" in few
