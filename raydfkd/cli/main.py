"""``raydfkd``: the verbs and their exit codes, without heavy imports. Each verb imports what it needs when it runs.

Exit codes: 0 done; 2 the user's input is wrong (one sentence on stderr, no traceback); 1 it failed; 3 ``raydfkd stop`` or a
signal (SIGTERM, SIGHUP) stopped it; 130 Ctrl-C did; 143 or 129 a second signal ended it at once.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from raydfkd import __version__
from raydfkd.cli.interruption import interrupted
from raydfkd.cli.verbs import bench_verb as bench
from raydfkd.cli.verbs import condense_verb as condense
from raydfkd.cli.verbs import config_verb as config
from raydfkd.cli.verbs import dataset_verb as dataset
from raydfkd.cli.verbs import init_verb as init
from raydfkd.cli.verbs import inspect_verbs as inspect
from raydfkd.cli.verbs import live_verbs as live
from raydfkd.cli.verbs import reproduce_verb as reproduce
from raydfkd.cli.verbs import run_verb as run
from raydfkd.cli.verbs import submit_verb as submit
from raydfkd.cli.verbs import sweep_verb as sweep
from raydfkd.cli.verbs import weights_verbs as weights
from raydfkd.errors import RaydfkdError


class Verbs(TyperGroup):
    """Turns an error that the user can fix into one sentence and an exit code; every other exception keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RaydfkdError as error:
            typer.echo(f"raydfkd: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as error:
            raise interrupted(error, "resume a run that had started with: raydfkd run --resume RUN") from None


app = typer.Typer(
    cls=Verbs, help="Distil a trained teacher into a small student without its training data.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"raydfkd {__version__}")
        raise typer.Exit


@app.callback()
def settings(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log progress on stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Distil a trained teacher into a small student without its training data."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home directory that it cannot write to
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


app.command("demo")(run.demo)
app.command("init")(init.init)
app.command("distill")(init.distill)
app.command("run")(run.run)
app.command("status")(live.status)
app.command("scale")(live.scale)
app.command("stop")(live.stop)
app.command("sweep")(sweep.sweep)
app.command("submit")(submit.submit)
app.command("reproduce")(reproduce.reproduce)
app.command("bench")(bench.bench)
app.command("doctor")(inspect.doctor)
app.command("train-teacher")(weights.train)
app.command("evaluate")(weights.evaluate)
app.command("export")(weights.export)
app.command("report")(inspect.report)
app.command("methods")(inspect.methods)
app.add_typer(dataset.app, name="dataset")
app.add_typer(condense.app, name="condense")
app.add_typer(config.app, name="config")


def main() -> None:
    """Entry point of the ``raydfkd`` command."""
    from raydfkd.pipeline.run import stop_signals

    stop_signals.install()
    app(prog_name="raydfkd")


if __name__ == "__main__":
    main()
