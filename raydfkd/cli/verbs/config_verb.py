"""``raydfkd config reference``, ``config check`` and ``config dashboard``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raydfkd.cli.arguments import Experiment, Overrides, experiment_path

app = typer.Typer(help="Reference of all settings; check of an experiment; Grafana dashboard.", no_args_is_help=True)


@app.command()
def reference(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write; otherwise standard output.")] = None,
) -> None:
    """Every setting with its type, default and meaning."""
    from raydfkd.cli.config_reference import reference_text

    _write("reference", reference_text(), out)


@app.command()
def dashboard(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write; otherwise standard output.")] = None,
) -> None:
    """The Grafana dashboard of all metrics, cluster/grafana/dashboard.json."""
    from raydfkd.cli.dashboard import dashboard_text

    _write("dashboard", dashboard_text(), out)


def _write(what: str, text: str, out: Path | None) -> None:
    from raydfkd.errors import ConfigError

    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}): choose another --out") from error
    typer.echo(f"{what}: {out}")


@app.command()
def check(experiment: Experiment, overrides: Overrides = None) -> None:
    """Check an experiment and print it with its defaults.

    Reads neither the teacher nor any data; for those, use `raydfkd doctor`.
    """
    from raydfkd.pipeline.experiment.config import load_experiment
    from raydfkd.pipeline.experiment.yaml_files import dump_yaml

    typer.echo(dump_yaml(load_experiment(experiment_path(experiment), overrides or [])), nl=False)
