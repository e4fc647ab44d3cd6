"""The generated reference: every setting once, with type, bounds, default and meaning; and the committed copy is the newest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from typer.testing import CliRunner

from raydfkd.cli.config_reference import _lines, field_docs, reference_text, settings_of
from raydfkd.cli.main import app
from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.pipeline.teacher.config import TeacherTrainingConfig

COMMITTED = Path(__file__).parents[3] / "experiments" / "settings.md"


class Square(BaseModel):
    kind: Literal["square"] = "square"
    """Which shape."""
    name: str = "x"
    """What it is called."""
    side: float = Field(1.0, gt=0, le=9)
    """Length of a side,
    in metres."""


class Circle(BaseModel):
    kind: Literal["circle"] = "circle"
    """Which shape."""
    name: str = "x"
    """What it is called."""
    radius: float | None = None
    """Radius in metres."""


class Drawing(BaseModel):
    shapes: dict[str, Annotated[Square | Circle, Field(discriminator="kind")]]
    """What is drawn."""
    size: tuple[int, int] = (3, 4)
    """Of the paper."""
    frame: Square = Square(side=2)
    """Around it."""


def test_lines_of_a_small_tree() -> None:
    assert list(_lines(Drawing)) == [
        "- `shapes` (map of settings, by kind: square or circle; required): What is drawn.",
        "- `shapes.<name>.kind` (square or circle; required): Which shape.",
        "- `shapes.<name>.name` (text; default x): What it is called.",
        "- `shapes.<name>[kind=square].side` (number, above 0 and at most 9; default 1.0): Length of a side, in metres.",
        "- `shapes.<name>[kind=circle].radius` (number or null; default null): Radius in metres.",
        "- `size` (list of 2: whole number; default [3, 4]): Of the paper.",
        "- `frame` (settings; default side 2.0): Around it.",
        "- `frame.kind` (square; default square): Which shape.",
        "- `frame.name` (text; default x): What it is called.",
        "- `frame.side` (number, above 0 and at most 9; default 1.0): Length of a side, in metres.",
    ]


def test_every_setting_of_ours_says_what_it_means() -> None:
    silent = [
        f"{owner.__name__}.{name}"
        for model in (ExperimentConfig, TeacherTrainingConfig)
        for _, owner, name, _ in settings_of(model)
        if not field_docs(owner).get(name)
    ]
    assert sorted(set(silent) - {f"{kind}Config.kind" for kind in ("Digits", "Parquet", "ImageFolder", "Torchvision")}) == []


def test_no_setting_stands_twice() -> None:
    for model in (ExperimentConfig, TeacherTrainingConfig):
        paths = [path for path, *_ in settings_of(model)]
        assert len(paths) == len(set(paths)) > 20


def test_the_committed_reference_is_the_newest() -> None:
    told = "write it anew: raydfkd config reference --out experiments/settings.md"
    assert COMMITTED.read_text(encoding="utf-8") == reference_text(), told


def test_it_is_written_where_asked(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["config", "reference", "--out", str(tmp_path / "r.md")])
    assert result.exit_code == 0
    assert (tmp_path / "r.md").read_text() == reference_text()
    result = CliRunner().invoke(app, ["config", "reference", "--out", str(tmp_path / "no" / "r.md")])
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
