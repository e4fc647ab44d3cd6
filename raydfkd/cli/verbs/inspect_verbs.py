"""``raydfkd doctor``, ``report`` and ``methods``: verbs that inspect and change no run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raydfkd.cli.arguments import Experiment, Overrides, experiment_path
from raydfkd.cli.console_table import render
from raydfkd.errors import ConfigError

if TYPE_CHECKING:
    from raydfkd.pipeline.experiment.config import ExperimentConfig


def doctor(experiment: Experiment, overrides: Overrides = None) -> None:
    """Audit teacher, settings and resources before a run."""
    from raydfkd.pipeline.experiment.config import load_experiment
    from raydfkd.pipeline.experiment.doctor import diagnose

    config = load_experiment(experiment_path(experiment), overrides or [])
    found = diagnose(config)
    if config.runtime.runner == "ray" and found.attempt(lambda: _place(config)):
        found.rows.append(("placement", "every actor fits on the Ray cluster"))
    typer.echo(render(("what", "finding"), found.rows))
    for problem in found.problems:
        typer.echo(f"problem: {problem}", err=True)
    if found.problems:
        raise typer.Exit(2)
    typer.echo("no problem found")


def _place(config: ExperimentConfig) -> bool:
    """Checks that the run fits on the cluster (or on a local Ray, started for this); raises ResourceError if not."""
    from raydfkd.runtime.preflight import preflight
    from raydfkd.runtime.ray_session import session

    with session(config):
        preflight(config)
    return True


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A run, sweep or bench directory, or several runs to compare.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the comparison; otherwise 'comparison' next to the first run.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of each compared run, in order (repeat the option); runs with the same name are seeds of one setting."
        ),
    ] = None,
) -> None:
    """Write the report of a run, a sweep or a bench, or compare several runs."""
    if len(runs) == 1:
        if out is not None or label:
            raise ConfigError(
                "--out and --label are for a comparison: name several runs (a single run's report goes into its folder)"
            )
        from raydfkd.report.bench.bench_page import is_bench, write_bench_page
        from raydfkd.report.html import write_report
        from raydfkd.report.sweep.sweep_page import write_sweep_report
        from raydfkd.sweep_dir import SweepDir

        is_sweep = SweepDir(runs[0]).sweep_path.exists()
        write = write_sweep_report if is_sweep else write_bench_page if is_bench(runs[0]) else write_report
        typer.echo(f"report: {write(runs[0])}")
        return
    from raydfkd.report.compare import write_comparison

    folder = runs[0].absolute().parent / "comparison" if out is None else out
    typer.echo(f"comparison: {write_comparison(runs, folder, labels=label or None)}")


def methods() -> None:
    """List the synthesis methods, the objectives, the few-shot methods and the ways to condense a data set."""
    from raydfkd.data.condensation import CONDENSERS
    from raydfkd.distillation.few_shot import FEW_SHOT
    from raydfkd.distillation.objectives import OBJECTIVES
    from raydfkd.synthesis.methods import METHODS

    rows = []
    for name in METHODS:
        entry = METHODS.get(name)
        needs = {
            "the teacher's BatchNorm": entry.needs_batch_norm and entry.config.model_construct(method=name).reads_batch_norm,
            "its gradient": entry.needs_gradient,
            "collected images": entry.needs_collected,
            "a student": entry.needs_student,
        }
        needed = ", ".join(what for what, is_needed in needs.items() if is_needed)
        rows.append((name, entry.title, METHODS.package_of(name) or entry.paper, needed or "nothing"))
    typer.echo("Synthesis methods (sources.*.method)")
    typer.echo(render(("method", "what it is", "paper or package", "needs"), rows))
    for heading, column, registry in (
        ("Distillation objectives (students.*.objective.kind)", "objective", OBJECTIVES),
        ("Few-shot methods (students.*.few_shot.kind)", "method", FEW_SHOT),
        ("Condensation methods (raydfkd condense --method)", "method", CONDENSERS),
    ):
        entries = [(name, registry.get(name)) for name in registry]
        listed = [(name, entry.title, registry.package_of(name) or entry.paper) for name, entry in entries]
        typer.echo(f"\n{heading}")
        typer.echo(render((column, "what it is", "paper or package"), listed))
