"""The Python entry point: ``raydfkd.distill``. The command line calls it too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydfkd.errors import RunDirError
from raydfkd.pipeline.config import ExperimentConfig, build_experiment, load_experiment
from raydfkd.pipeline.yaml_config import dump_yaml
from raydfkd.run_dir import RunDir, write_atomically


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        result: what result.json holds.
        run_dir: the run directory.
        report: its report.html.
    """

    result: dict[str, Any]
    run_dir: Path
    report: Path


def distill(
    config: ExperimentConfig | dict[str, Any] | str | Path,
    *,
    overrides: Iterable[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    address: str | None = None,
    watcher: Any = None,
) -> Result:
    """Distils a student from a teacher, as the experiment says, to the end.

    Args:
        config: an experiment, a tree of plain values, or the path of a YAML file.
        overrides: ``a.b=c`` settings on top of a tree or a file.
        out: the run directory; otherwise ``runtime.out``, otherwise ``runs/<name>-seed<seed>``.
        resume: continue the run in that directory from its last checkpoint.
        address: Ray cluster to join, in place of ``runtime.address``.
        watcher: told of stages and records while the run goes on (see ``pipeline.recorder.Watcher``).

    Raises:
        RaydfkdError: something the caller can put right, in one sentence.
    """
    from raydfkd.pipeline.run import execute

    file = Path(config) if isinstance(config, str | Path) else None
    name = "experiment" if file is None else file.stem
    if isinstance(config, str | Path):
        config = load_experiment(config, overrides)
    elif isinstance(config, dict):
        config = build_experiment(config, overrides)
    updates: dict[str, Any] = {} if address is None else {"address": address}
    path = Path(out or config.runtime.out or f"runs/{name}-seed{config.runtime.seed}")
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={**updates, "out": path.absolute()})})
    run = _open(path, config, resume, file)
    result = execute(config, run, resume=resume, watcher=watcher, run_ray=_ray_runner)
    from raydfkd.report.html import write_report

    return Result(result, run.path, write_report(run.path))


def _open(path: Path, config: ExperimentConfig, resume: bool, file: Path | None) -> RunDir:
    if not resume:
        overwritten = file is not None and file.resolve() == path.resolve() / "config.yaml"
        if overwritten and not RunDir(path).manifest_path.exists():
            raise RunDirError(f"run directory {path} holds the experiment itself as config.yaml: choose another --out")
        run = RunDir.create(path)
        write_atomically(run.config_path, dump_yaml(config))
        return run
    run = RunDir.open(path)
    if run.manifest().get("state") == "finished":
        raise RunDirError(f"run directory {path} holds a finished run: there is nothing to resume, choose another --out")
    return run


def _ray_runner(*args: Any) -> None:
    from raydfkd.runtime.ray_runner import run_ray

    run_ray(*args)
