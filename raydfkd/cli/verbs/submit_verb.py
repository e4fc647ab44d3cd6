"""``raydfkd submit``: sends a run or a sweep to a cluster as a job and follows it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydfkd.cli.arguments import Experiment, Overrides
from raydfkd.errors import ConfigError

if TYPE_CHECKING:
    from raydfkd.runtime.jobs.job_client import JobClient
    from raydfkd.runtime.jobs.job_submission import Job

DASHBOARD = "http://127.0.0.1:8265"
INTERRUPTED = 130


def submit(
    experiment: Experiment,
    overrides: Overrides = None,
    address: Annotated[
        str, typer.Option(help="The cluster's dashboard, http://HOST:8265.", envvar="RAY_API_SERVER_ADDRESS")
    ] = DASHBOARD,
    out: Annotated[
        Path | None, typer.Option(help="Run directory: an absolute path on storage that every node can access.")
    ] = None,
    fetch: Annotated[
        Path | None, typer.Option(help="Local folder to copy the run directory to once the job has ended.")
    ] = None,
    job_id: Annotated[
        str | None, typer.Option("--id", help="Name of the job. A job that exists already is followed, not started again.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in the run directory.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once the job is sent.")] = False,
    working_dir: Annotated[
        str | None, typer.Option(help="Folder to copy to the job (default: the current one), or the address of an archive.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern of files not to copy (repeat the option).")] = None,
    runtime_env: Annotated[Path | None, typer.Option(help="YAML file with a Ray runtime environment.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Environment variable for the job (repeat the option).")
    ] = None,
    entrypoint_num_cpus: Annotated[float, typer.Option(min=0, help="CPUs for the command itself.")] = 0,
    entrypoint_num_gpus: Annotated[float, typer.Option(min=0, help="GPUs for the command itself.")] = 0,
    entrypoint_resource: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=AMOUNT", help="Custom resource for the command itself (repeat the option)."),
    ] = None,
) -> None:
    """Send a run or a sweep to a Ray cluster as a job, and follow it.

    The exit code is the job's. Ctrl-C leaves the job running.
    """
    if fetch is not None and (no_wait or (fetch.exists() and (not fetch.is_dir() or any(fetch.iterdir())))):
        reason = "--no-wait returns before there is anything to fetch" if no_wait else f"--fetch {fetch} is not empty"
        raise ConfigError(f"{reason}: leave one out or choose another folder")
    if job_id is not None and not re.fullmatch(r"[\w.-]+", job_id):
        raise ConfigError(f"--id is {job_id!r}: use letters, digits, '_', '.' and '-'")
    from raydfkd.runtime.jobs.job_client import connect
    from raydfkd.runtime.jobs.job_command import job_command
    from raydfkd.runtime.jobs.job_submission import Job
    from raydfkd.runtime.jobs.job_submission import submit as send

    environment = _environment(runtime_env, env or [])
    folder, archive = _working_dir(working_dir, environment)
    command = job_command(experiment, overrides or [], folder or Path.cwd(), out, resume)
    job = Job(
        command=command.words,
        out=command.out,
        runtime_env={**environment, **archive},
        working_dir=folder,
        excludes=(*_texts(environment, "excludes"), *(exclude or [])),
        named=command.named,
        num_cpus=entrypoint_num_cpus,
        num_gpus=entrypoint_num_gpus,
        resources=dict(_amount(given) for given in entrypoint_resource or []),
        **({} if job_id is None else {"job_id": job_id}),
    )
    client = connect(address, os.environ)
    is_new = send(client, job)
    typer.echo(f"job {job.job_id} {'sent to' if is_new else 'exists already on'} {client.get_address()}: {job.entrypoint}")
    if no_wait:
        typer.echo(_how_to_go_on(client, job))
        return
    raise typer.Exit(_follow(client, job, fetch))


def _follow(client: JobClient, job: Job, target: Path | None) -> int:
    from raydfkd.runtime.jobs.job_submission import fetch, follow

    try:
        code = follow(client, job.job_id, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        typer.echo(f"\nraydfkd: detached; job {job.job_id} continues. {_how_to_go_on(client, job)}", err=True)
        return INTERRUPTED
    if code:
        typer.echo(f"raydfkd: job {job.job_id} ended with exit code {code}", err=True)
    if target is not None and (code == 0 or (job.out / "manifest.json").exists()):
        typer.echo(f"fetched: {fetch(job.out, target)}")
    return code


def _how_to_go_on(client: JobClient, job: Job) -> str:
    address = client.get_address()
    return (
        f"Follow it with: ray job logs {job.job_id} --follow --address {address}; "
        f"stop it with: ray job stop {job.job_id} --address {address}"
    )


def _environment(file: Path | None, variables: list[str]) -> dict[str, Any]:
    from raydfkd.pipeline.experiment.yaml_files import read_yaml

    environment: dict[str, Any] = {} if file is None else read_yaml(file)
    known = environment.get("env_vars") or {}
    if not isinstance(known, dict):
        raise ConfigError(f"{file}: env_vars is {known!r}: it must hold NAME: value lines")
    given = dict(_pair(variable, "--env", "NAME=VALUE") for variable in variables)
    merged = {str(name): str(value) for name, value in known.items()} | given
    return {**environment, **({"env_vars": merged} if merged else {})}


def _working_dir(given: str | None, environment: dict[str, Any]) -> tuple[Path | None, dict[str, str]]:
    """The local folder to send, or the runtime environment's entry for an archive that the cluster reads itself.

    Takes ``working_dir`` out of ``environment``, where a runtime environment's file may have named it.
    """
    named = environment.pop("working_dir", None)
    if given is not None and named is not None:
        raise ConfigError("--working-dir and the working_dir of --runtime-env are both given: keep one")
    where = str(given or named or ".")
    if "://" in where:
        return None, {"working_dir": where}
    return Path(where).resolve(), {}


def _texts(environment: dict[str, Any], key: str) -> list[str]:
    values = environment.pop(key, None) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{key} of --runtime-env is {values!r}: it must be a list of texts")
    return values


def _pair(given: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals or not name:
        raise ConfigError(f"{option} is {given!r}: write {form}")
    return name, value


def _amount(given: str) -> tuple[str, float]:
    name, text = _pair(given, "--entrypoint-resource", "NAME=AMOUNT")
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 < amount < float("inf"):
        raise ConfigError(f"--entrypoint-resource is {given!r}: the amount must be a number above 0")
    return name, amount
