"""Turns an experiment on this machine into the command that a job runs, and lists the files that it needs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydfkd.errors import ConfigError
from raydfkd.pipeline.experiment.config import ExperimentConfig, load_experiment
from raydfkd.pipeline.experiment.input_paths import input_paths
from raydfkd.pipeline.experiment.yaml_files import apply_overrides, merge, read_layers, read_yaml
from raydfkd.run_dir import RunDir

SWEEP_KEYS = {"experiment", "space"}
"""Top-level keys that mark a file as a sweep and not an experiment."""


@dataclass(frozen=True)
class JobCommand:
    """The words of the command, its run directory, and the files that must be sent with it."""

    words: tuple[str, ...]
    out: Path
    named: tuple[Path, ...]


def job_command(experiment: Path, overrides: list[str], root: Path, out: Path | None, resume: bool) -> JobCommand:
    """The command for an experiment, a sweep or, with ``resume``, a run directory.

    Args:
        root: the folder of which the job gets a copy as its working directory.
        out: run directory as the cluster sees it; None: the experiment's ``runtime.out``, or the resumed run.

    Raises:
        RaydfkdError: the experiment is wrong or cannot run as a job.
    """
    root = Path(os.path.abspath(root))
    if experiment.is_dir():
        file = RunDir.open(experiment).config_path.absolute()
        word, layers = str(file), [(file, read_yaml(file))]
        out = experiment.absolute() if out is None and resume else out
    else:
        file = _placed(experiment, root)
        layers = [(_placed(path, root), tree) for path, tree in read_layers(experiment)]
        word = _below(file, root)
    verb = "sweep" if layers[-1][1].keys() >= SWEEP_KEYS else "run"
    named: list[Path] = [] if experiment.is_dir() else [path for path, _ in layers]
    settings: list[str] = []
    for path in named:
        _below(path, root)
    if verb == "run":
        config = load_experiment(experiment if not experiment.is_dir() else file, overrides)
        _refuse_local(config)
        out = out or config.runtime.out
        inputs, settings = _inputs(config, _raw(layers, overrides), root)
        named += inputs
    else:
        named += _sweep_files(file, layers[-1][1], root)
    if out is None or not out.is_absolute():
        raise ConfigError(
            f"--out is {'missing' if out is None else str(out)!r}: give the run directory as an absolute path on storage that "
            "every node of the cluster can access, because the job's own folder is deleted with it"
        )
    words = ("raydfkd", verb, word, *overrides, *settings, "--out", str(out), "--address", "auto")
    return JobCommand((*words, "--resume") if resume else words, out, tuple(dict.fromkeys(named)))


def _refuse_local(config: ExperimentConfig) -> None:
    if config.runtime.runner == "local":
        raise ConfigError("runtime.runner is 'local', which would run on the head node alone: add runtime.runner=ray")


def _placed(path: Path, root: Path) -> Path:
    """An absolute path to the same file, below ``root`` if it is there, also where either is reached through links."""
    plain, real_root = Path(os.path.abspath(path)), root.resolve()
    if plain.is_relative_to(root):
        return plain
    for above in (*plain.parents, plain):
        if above.resolve().is_relative_to(real_root):
            return root / above.resolve().relative_to(real_root) / plain.relative_to(above)
    return plain.resolve()


def _below(path: Path, root: Path) -> str:
    if not path.is_relative_to(root):
        raise ConfigError(f"{path} is outside the working directory {root}, and only that is sent to the job: move it there")
    return path.relative_to(root).as_posix()


def _raw(layers: list[tuple[Path, dict[str, Any]]], overrides: list[str]) -> dict[str, Any]:
    """The settings as written, unchecked."""
    tree: dict[str, Any] = {}
    for _, layer in layers:
        tree = merge(tree, layer)
    return apply_overrides(tree, overrides)


def _inputs(config: ExperimentConfig, raw: dict[str, Any], root: Path) -> tuple[list[Path], list[str]]:
    """Input files with relative paths: those below ``root``, and settings that make the others absolute.

    An absolute path is left unchanged: it is a path on the cluster.
    """
    named: list[Path] = []
    settings: list[str] = []
    resolved = {dotted: paths for dotted, _, paths in input_paths(config.model_dump(mode="json"), ExperimentConfig)}
    for dotted, prefix, written in input_paths(raw, ExperimentConfig):
        if all(Path(path).is_absolute() for path in written) or dotted not in resolved:
            continue
        found = [_placed(Path(path), root) for path in resolved[dotted]]
        if all(path.is_relative_to(root) for path in found):
            named += found
        else:
            texts = [f"{prefix}{path}" for path in found]
            settings.append(f"{dotted}={json.dumps(texts if len(texts) > 1 else texts[0])}")
    return named, settings


def _sweep_files(file: Path, tree: dict[str, Any], root: Path) -> list[Path]:
    """The experiment that a sweep varies, and its input files; the experiment is validated here."""
    if not isinstance(tree["experiment"], str):
        return []
    experiment = _placed(file.parent / tree["experiment"], root)
    layers = [(_placed(path, root), layer) for path, layer in read_layers(experiment)]
    for path, _ in layers:
        _below(path, root)
    named, _ = _inputs(load_experiment(experiment), _raw(layers, []), root)
    return [path for path, _ in layers] + named
