"""The YAML files under experiments/, and what the tests of them share."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from raydfkd.pipeline.dataset.config import DatasetBuildConfig
from raydfkd.pipeline.experiment.config import ExperimentConfig

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
SHARED = (ROOT.parent / "shared").resolve()  # may be a link

FILES = [path for path in sorted(EXPERIMENTS.rglob("*.yaml")) if path.relative_to(EXPERIMENTS).parts[0] != "results"]
RECIPES = [path for path in FILES if path.parent.name == "teachers"]
SWEEPS = [path for path in FILES if path.parent.name == "sweeps"]
BUILDS = [p for p in FILES if p.stem.endswith("_build") or p.parent.name == "builds" or "surrogate/table3" in p.as_posix()]
RUNS = [path for path in FILES if path.parent.name not in ("teachers", "sweeps") and path not in BUILDS]


def name_of(path: Path) -> str:
    return path.relative_to(EXPERIMENTS).with_suffix("").as_posix()


def without_checkpoint(config: ExperimentConfig | DatasetBuildConfig) -> list[str]:
    """Overrides by which a teacher of random weights stands in."""
    channels = config.task.image_shape[0]
    return ["teacher.checkpoint=null", f"teacher.normalization={{mean: {[0.5] * channels}, std: {[0.25] * channels}}}"]


def commands(path: Path) -> list[list[str]]:
    """The commands in a file's head comment."""
    text = path.read_text().split("\n\n")[0].replace("\\\n#", "")
    return [shlex.split(line) for line in re.findall(r"^#.*?(raydfkd (?:train-teacher|run) \S+\.yaml.*)$", text, re.MULTILINE)]
