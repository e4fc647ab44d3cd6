"""``raydfkd bench``: methods on one teacher and student, each with the same budget, and the page that compares them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydfkd.cli.arguments import Experiment, Overrides, experiment_path
from raydfkd.cli.interruption import interrupted
from raydfkd.errors import ConfigError, RunFailedError

if TYPE_CHECKING:
    from raydfkd.bench.plan import BenchBudget
    from raydfkd.pipeline.experiment.config import ExperimentConfig

MINUTES = 10.0
CONTINUE = "the same command continues the bench"


def bench(
    experiment: Experiment,
    overrides: Overrides = None,
    methods: Annotated[
        str, typer.Option(help="Methods, separated by commas (raydfkd methods lists them), or all.", show_default=True)
    ] = "all",
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help=f"Minutes that each method may train; otherwise --images, otherwise {MINUTES:g}."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images that each method's student sees, in place of --minutes.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Bench directory; otherwise runs/bench-NAME.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Dashboard of a Ray cluster: each method is sent as a job; its nodes need the data.")
    ] = None,
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="Write the page; without it several commands can share the directory.")
    ] = True,
) -> None:
    """Run methods on the teacher and student of EXP.yaml under one budget, and compare them on one page.

    Sources, schedule and rates of EXP.yaml are not used: every method gets those that `raydfkd init` would propose. A method
    that the teacher does not allow is skipped, one that collapses is stopped. The same command continues a bench.
    """
    from raydfkd.bench.bench_run import chosen_methods
    from raydfkd.bench.plan import BenchBudget
    from raydfkd.pipeline.experiment.config import load_experiment

    if minutes is not None and images is not None:
        raise ConfigError("--minutes and --images are both given: every method has one budget, leave one out")
    budget = BenchBudget(MINUTES if minutes is None and images is None else minutes, images)
    names = chosen_methods(methods)
    path = experiment_path(experiment)
    folder = Path(f"runs/bench-{path.parent.name if path.stem == 'config' else path.stem}") if out is None else out
    if address is not None:
        _submit(experiment, overrides or [], names, budget, out, address)
    else:
        _run(load_experiment(path, overrides or []), names, budget, folder, page)


def _run(config: ExperimentConfig, names: Sequence[str], budget: BenchBudget, folder: Path, page: bool) -> None:
    from raydfkd.bench.bench_dir import FINAL, BenchDir
    from raydfkd.bench.bench_run import run_bench
    from raydfkd.cli.console_table import render
    from raydfkd.report.bench import bench_words

    try:
        outcome = run_bench(config, names, budget, folder, tell=typer.echo, display=_progress, page=page)
    except KeyboardInterrupt as error:
        raise interrupted(error, CONTINUE) from None
    rows = [bench_words.text_row(method, outcome["teacher_metric"]) for method in bench_words.ran(outcome)]
    typer.echo(f"\n{bench_words.budget_text(outcome['budget'])} each; {outcome['metric_label']} on {outcome['measured_on']}")
    typer.echo(render(bench_words.HEADERS, rows))
    for name, end, why in bench_words.reasons(outcome):
        typer.echo(f"{name}: {end}: {why}")
    for spent, name, figure in bench_words.leader_lines(outcome):
        typer.echo(f"best after {spent}: {name}, {figure}")
    typer.echo(f"bench directory: {folder}")
    if page:
        typer.echo(f"result: {folder / 'result.json'}")
        typer.echo(f"page: {folder / 'bench.html'}")
    ends = [BenchDir(folder).entry(name) for name in names]
    if not any(entry.get("end") in FINAL for entry in ends):
        raise RunFailedError(f"none of these methods ran to an end: {', '.join(names)}; the lines above say why")


def _progress(name: str, config: ExperimentConfig) -> Any:
    from raydfkd.cli.progress import Progress
    from raydfkd.tasks import build_task

    label = build_task(config.task).metric_label
    return Progress(config.schedule.total_steps, title=f"raydfkd bench {name}", metric_label=label)


def _submit(
    experiment: Path, overrides: Sequence[str], names: Sequence[str], budget: BenchBudget, out: Path | None, address: str
) -> None:
    """Sends each method as a job of its own: this command for it alone, on the cluster."""
    import os

    from raydfkd.bench.bench_dir import FINAL, BenchDir
    from raydfkd.data.data_root import job_environment
    from raydfkd.pipeline.experiment.config import load_experiment
    from raydfkd.runtime.jobs.job_client import connect
    from raydfkd.runtime.jobs.job_command import job_command
    from raydfkd.runtime.jobs.job_submission import Job, forget_ended
    from raydfkd.runtime.jobs.job_submission import submit as send

    command = job_command(experiment, [*overrides, "runtime.runner=ray"], Path.cwd(), out, resume=False)
    _, _, *words = command.words
    del words[words.index("--out") :]  # the experiment and its settings are left
    asks = load_experiment(experiment_path(experiment), overrides).student.resources
    spends = ("--minutes", f"{budget.minutes:g}") if budget.minutes is not None else ("--images", str(budget.images))
    client = connect(address, os.environ)
    for name in names:
        if BenchDir(command.out).entry(name).get("end") in FINAL:
            typer.echo(f"{name}: ended before, {BenchDir(command.out).run(name).path}")
            continue
        job = Job(
            command=("raydfkd", "bench", *words, "--methods", name, *spends, "--out", str(command.out), "--no-page"),
            out=BenchDir(command.out).run(name).path,
            runtime_env=job_environment(),
            working_dir=Path.cwd(),
            named=command.named,
            num_cpus=asks.num_cpus,
            num_gpus=asks.gpus,
            job_id=f"{command.out.name}-{name}",
        )
        forget_ended(client, job.job_id)
        is_new = send(client, job)
        typer.echo(f"job {job.job_id} {'sent' if is_new else 'exists already'}: {job.out}")
    typer.echo("once they have ended, the same command without --address shows the page, and runs here what has no result yet")
