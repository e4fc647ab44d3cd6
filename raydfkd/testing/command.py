"""The ``raydfkd`` command as a process of its own, started quickly: a server imports torch once, and each command is its fork.

So a test sees the real exit code and everything written to stderr, without the seconds that a fresh interpreter takes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

PRELOADED = [
    *("raydfkd.cli.main", "raydfkd.api", "raydfkd.pipeline.run.execute", "raydfkd.report.html", "pyarrow.parquet"),
    *("torch._dynamo", "sklearn.datasets", "matplotlib.figure", "matplotlib.backends.backend_svg"),
]


@dataclass(frozen=True)
class Finished:
    """How a command ended: its exit code (negative: the signal that killed it) and all that it wrote."""

    code: int | None
    out: str
    err: str


def run_command(
    arguments: list[str], cwd: Path, environment: Mapping[str, str] | None = None, timeout_s: float = 300
) -> Finished:
    """Runs ``raydfkd ARGUMENTS`` in ``cwd``, with ``environment`` added to this process's; kills it after ``timeout_s``."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _server().Process(target=_main, args=(arguments, cwd, dict(environment or {}), out, err))
        process.start()
        process.join(timeout_s)
        if process.is_alive():
            process.kill()
            process.join()
        told = [path.read_text(encoding="utf-8") if path.exists() else "" for path in (out, err)]
        return Finished(process.exitcode, *told)


def invoke(*arguments: object, rc: int = 0) -> str:
    """Runs the command in this process and returns its standard output, or its standard error where ``rc`` is not 0."""
    from typer.testing import CliRunner

    from raydfkd.cli.main import app

    result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="raydfkd")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == rc, result.output
    return result.stderr if rc else result.stdout


def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _main(arguments: list[str], cwd: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    os.environ.update(environment)
    sys.argv = ["raydfkd", *arguments]
    from raydfkd.cli.main import main

    main()
