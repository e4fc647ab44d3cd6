"""``raydfkd reproduce``: rows and tables of the papers, beside the papers' figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydfkd.errors import ConfigError, RaydfkdError

if TYPE_CHECKING:
    from raydfkd.papers.paper import PaperConfig
    from raydfkd.papers.rows import Row

MISSING = "–"


def reproduce(
    paper: Annotated[str | None, typer.Argument(help="A paper (none: lists them), or a YAML file of your own.")] = None,
    table: Annotated[str | None, typer.Argument(help="A table of it; none lists its tables.")] = None,
    row: Annotated[str | None, typer.Argument(help="A row, or a pattern such as 'cifar10_*'; none: all rows.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Setting of every row's experiment (repeatable).")
    ] = None,
    list_rows: Annotated[bool, typer.Option("--list", help="List the rows, with the figures and what is missing.")] = False,
    print_row: Annotated[bool, typer.Option("--print", help="Print the row's experiment as YAML, and run nothing.")] = False,
    seeds: Annotated[str, typer.Option(help="Seeds to run, separated by commas.")] = "0",
    scale: Annotated[float, typer.Option(min=0, max=1, help="Share of the paper's steps and rounds to spend.")] = 1.0,
    train_teacher: Annotated[
        bool, typer.Option("--train-teacher", help="Train a missing teacher first, by its recipe.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="Dashboard of a Ray cluster: each run is sent as a job; its nodes need the data.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("reproduced"),
    compare: Annotated[
        list[Path] | None, typer.Option(help="Show a finished run in the row's place (repeatable); nothing is run.")
    ] = None,
) -> None:
    """Run rows of a paper's table and show our figures beside the paper's.

    Finished runs are kept and unfinished ones resumed, so the same command continues a table.
    """
    if scale == 0:
        raise ConfigError("--scale is 0: use a share of the budget above 0, up to 1")
    from raydfkd.papers.paper import load_paper

    if paper is None:
        _list_papers()
        return
    loaded = load_paper(paper)
    if table is None:
        _list_tables(loaded)
        return
    from raydfkd.papers.cells import chosen_cells
    from raydfkd.papers.rows import Row

    name = Path(paper).stem
    rows = [Row(name, cell, scale, out, tuple(overrides or ())) for cell in chosen_cells(loaded, table, row)]
    if list_rows:
        _list_rows(loaded, table, rows)
    elif print_row:
        _print(rows)
    elif compare:
        _show(loaded, table, rows, out, compare)
    elif address is not None:
        _submit(rows, paper, _seeds(seeds), train_teacher, overrides or [], out, address)
    else:
        _run(rows, _seeds(seeds), train_teacher, alone=row is not None and len(rows) == 1)
        _show(loaded, table, rows, out)


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds is {text!r}: give whole numbers separated by commas, such as 0,1,2") from None


def _seeds_of(row: Row, seeds: Sequence[int]) -> Sequence[int]:
    """Those with which a row is run: a teacher and a data set have the seed of their own settings, and are made once."""
    return seeds if row.cell.kind == "experiment" else seeds[:1]


def _list_papers() -> None:
    from raydfkd.papers.paper import load_paper, shipped_papers

    for path in shipped_papers():
        loaded = load_paper(path.stem)
        venue = f" ({loaded.paper.venue})" if loaded.paper.venue else ""
        typer.echo(f"{path.stem}: {loaded.paper.title}{venue}")
        typer.echo(f"  tables: {', '.join(loaded.tables)}")


def _list_tables(paper: PaperConfig) -> None:
    from raydfkd.papers.cells import cells_of

    for name, table in paper.tables.items():
        cells = list(cells_of(paper, name))
        ours = sum(cell.runnable for cell in cells)
        rest = f", {len(cells) - ours} of which only the paper's figures are known" if len(cells) > ours else ""
        typer.echo(f"{name}: {table.source}, {table.title} ({ours} rows to run{rest})")


def _list_rows(paper: PaperConfig, table: str, rows: Sequence[Row]) -> None:
    from raydfkd.cli.console_table import render
    from raydfkd.papers.estimate import estimated_hours
    from raydfkd.papers.outcomes import outcome_of, text_row

    lines = []
    for row in rows:
        texts = text_row(outcome_of(row))
        if not row.cell.runnable:
            lines.append((texts[0], MISSING, texts[4], texts[8], MISSING, "not implemented"))
            continue
        lacking = [*row.missing_data()]
        teacher, evaluation = row.missing_teacher(), row.missing_evaluation()
        lacking += [] if teacher is None else [f"teacher {teacher}"]
        lacking += [] if evaluation is None else [f"{evaluation} (accuracy)"]
        hours = estimated_hours(row)
        lines.append((texts[0], texts[2], texts[4], texts[8], MISSING if hours is None else _about(hours), ", ".join(lacking)))
    config = paper.table(table)
    typer.echo(f"{paper.paper.title}, {config.source}: {config.title}")
    typer.echo(render(("row", "ours", "paper", "paper's hours", "here, about", "missing"), lines))
    for note in config.notes:
        typer.echo(f"- {note}")


def _about(hours: float) -> str:
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:.1f} h" if hours < 100 else f"{hours / 24:.0f} days"


def _print(rows: Sequence[Row]) -> None:
    import yaml

    if len(rows) != 1:
        raise ConfigError(f"--print is for one row, and {len(rows)} were chosen: name the row, such as {rows[0].name}")
    typer.echo(yaml.safe_dump(rows[0].plain(), sort_keys=False, allow_unicode=True, width=120), nl=False)


def _run(rows: Sequence[Row], seeds: Sequence[int], train: bool, alone: bool) -> None:
    """Runs what can be run; a row of several that lacks something is left out with a line."""
    from raydfkd.papers.reproduce import refuse_missing, run_row

    ready = []
    for row in rows:
        if not row.cell.runnable:
            if alone:
                row.plain()  # says why
            continue
        try:
            refuse_missing(row, train)
        except RaydfkdError as error:
            if alone:
                raise
            typer.echo(f"left out: {error}", err=True)
        else:
            ready.append(row)
    if not ready:
        raise ConfigError("none of these rows can be run here: --list says what each is missing")
    for row in ready:
        for seed in _seeds_of(row, seeds):
            with _progress(row, seed) as progress:
                run_row(row, seed, tell=typer.echo, watcher=progress)


def _progress(row: Row, seed: int) -> Any:
    from contextlib import nullcontext

    from raydfkd.cli.progress import Progress
    from raydfkd.tasks import build_task

    if row.cell.kind != "experiment":
        return nullcontext()
    config = row.experiment()
    share = "" if row.scale == 1 else f", scale {row.scale:g}"
    title = f"{row.paper} {row.cell.table_name} {row.name}, seed {seed}{share}"
    return Progress(config.schedule.total_steps, title=title, metric_label=build_task(config.task).metric_label)


def _show(paper: PaperConfig, table: str, rows: Sequence[Row], out: Path, compare: Sequence[Path] = ()) -> None:
    """The table as text, JSON and HTML."""
    import json

    from raydfkd.cli.console_table import render
    from raydfkd.errors import RunDirError
    from raydfkd.papers.outcomes import HEADERS, outcome_of, text_row, write_json
    from raydfkd.report.paper_table import write_paper_table

    given = None
    if compare:
        if len(rows) != 1:
            raise ConfigError(f"--compare shows runs in one row's place, and {len(rows)} were chosen: name the row")
        lacking = [path for path in compare if not (path / "result.json").is_file()]
        if lacking:
            raise RunDirError(f"{lacking[0]} has no result.json: give run directories of finished runs")
        given = [json.loads((path / "result.json").read_text(encoding="utf-8")) for path in compare]
    outcomes = [outcome_of(row, given) for row in rows]
    lines = [text_row(outcome) for outcome in outcomes]
    config, scale = paper.table(table), rows[0].scale
    heading = f"{config.source}: {config.title}" + ("" if scale == 1 else f" — at {scale:g} of the paper's budget")
    typer.echo(render(HEADERS, lines))
    stem = "table" if scale == 1 else f"table-scale-{scale:g}"
    folder = out / rows[0].paper / table
    hardware = sorted({name for outcome in outcomes for name in outcome["hardware"]})
    commits = sorted({name for outcome in outcomes for name in outcome["commits"]})
    notes = [*config.notes]
    notes += [f"Hardware: {', '.join(hardware)}."] if hardware else []
    notes += [f"Commit: {', '.join(commits)}."] if commits else []
    typer.echo(f"table: {write_json(folder / f'{stem}.json', rows[0].paper, table, outcomes)}")
    typer.echo(f"page: {write_paper_table(folder / f'{stem}.html', paper.paper.title, heading, HEADERS, lines, notes)}")


def _submit(
    rows: Sequence[Row], paper: str, seeds: Sequence[int], train: bool, overrides: Sequence[str], out: Path, address: str
) -> None:
    """Sends each run as a job of its own: this command for one row and one seed, on the cluster."""
    import os

    from raydfkd.data.data_root import job_environment
    from raydfkd.runtime.jobs.job_client import connect
    from raydfkd.runtime.jobs.job_submission import Job, forget_ended
    from raydfkd.runtime.jobs.job_submission import submit as send

    if not out.is_absolute():
        raise ConfigError(
            f"--out is {str(out)!r}: with --address give an absolute path that every node of the cluster can access"
        )
    own = Path(paper).absolute() if Path(paper).suffix else None
    client = connect(address, os.environ)
    for row in rows:
        if not row.cell.runnable:
            continue
        if row.build is not None and not row.build.is_built:
            raise ConfigError(
                f"row {row.name} reads the data set {row.build.name}, which is not built: send row {row.build.name} of "
                f"{row.build.cell.table_name} first"
            )
        words = ["raydfkd", "reproduce", paper if own is None else own.name, row.cell.table_name, row.name]
        words += [word for setting in overrides for word in ("--set", setting)]
        if row.cell.kind == "experiment" and row.experiment().runtime.runner == "ray":
            words += ["--set", "runtime.address=auto"]
        words += ["--scale", f"{row.scale:g}", "--out", str(out), *(["--train-teacher"] if train else [])]
        for seed in _seeds_of(row, seeds):
            job = Job(
                command=(*words, "--seeds", str(seed)),
                out=row.run_dir(seed),
                runtime_env=job_environment(),
                working_dir=None if own is None else own.parent,
                named=() if own is None else (own,),
                job_id=f"{row.paper}-{row.cell.table_name}-{row.name}-{row.scale:g}-seed{seed}",
            )
            if (job.out / "result.json").is_file():
                typer.echo(f"{row.name}, seed {seed}: finished before, {job.out}")
                continue
            forget_ended(client, job.job_id)
            is_new = send(client, job)
            typer.echo(f"job {job.job_id} {'sent' if is_new else 'exists already'}: {job.out}")
    typer.echo("once they have ended, the same command without --address shows the table, and runs here what has no result yet")
