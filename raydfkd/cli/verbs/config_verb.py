"""``raydfkd config reference`` and ``config check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raydfkd.cli.arguments import Experiment, Overrides, experiment_path

app = typer.Typer(help="Reference of all settings; check of an experiment.", no_args_is_help=True)


@app.command()
def reference(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there; otherwise to standard output.")] = None,
) -> None:
    """Every setting with its type, default and meaning."""
    from raydfkd.cli.config_reference import reference_text
    from raydfkd.errors import ConfigError

    text = reference_text()
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}): choose another --out") from error
    typer.echo(f"reference: {out}")


@app.command()
def check(experiment: Experiment, overrides: Overrides = None) -> None:
    """Check an experiment and print it with its defaults.

    Reads neither the teacher nor any data; `raydfkd doctor` does.
    """
    from raydfkd.pipeline.experiment.config import load_experiment
    from raydfkd.pipeline.experiment.yaml_files import dump_yaml

    typer.echo(dump_yaml(load_experiment(experiment_path(experiment), overrides or [])), nl=False)
