"""Sends a run as a Ray job, follows its log to the end, and copies its run directory to this machine.

The job is the same ``raydfkd`` command as here, in a copy of the working directory on the cluster. Its run directory must be on
storage that all nodes can access, because the copy is deleted with the job; object-store addresses are not supported.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from ray.exceptions import RuntimeEnvSetupError

from raydfkd.errors import ConfigError, ResourceError, RunFailedError, WaitTimeoutError
from raydfkd.runtime.jobs.job_client import JobClient, RequestRefusedError
from raydfkd.runtime.jobs.job_package import pack

POLL_S = 1.0
LOG_END_S = 10.0
"""How long to wait for the rest of the log after a job's end."""
SILENCE_S = 120.0
"""How long the dashboard may fail to answer before following stops."""
NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""A shell's exit codes when the command itself could not be run; higher codes mean that it was killed."""


@dataclass(frozen=True)
class Job:
    """A job to submit.

    Attributes:
        command: the words of the command.
        out: its run directory as the cluster sees it.
        runtime_env: Ray's runtime environment, without the working directory if ``working_dir`` is a local folder.
        working_dir: local folder to send; None if the runtime environment names an archive.
        excludes: patterns of files not to send.
        named: files to send in any case.
        num_cpus, num_gpus, resources: what the command itself reserves. It is not tied to the head node.
        job_id: its name on the cluster; a job that exists already is followed, not started again.
    """

    command: tuple[str, ...]
    out: Path
    runtime_env: dict[str, Any]
    working_dir: Path | None
    excludes: tuple[str, ...] = ()
    named: tuple[Path, ...] = ()
    num_cpus: float = 0
    num_gpus: float = 0
    resources: dict[str, float] = field(default_factory=dict)
    job_id: str = field(default_factory=lambda: f"raydfkd-{uuid.uuid4().hex[:12]}")

    @property
    def entrypoint(self) -> str:
        return shlex.join(self.command)


def submit(client: JobClient, job: Job) -> bool:
    """Starts the job; False if a job of this name and command exists already.

    Raises:
        ConfigError: the name belongs to another job, or the working directory or runtime environment cannot be used.
        ResourceError: the cluster refuses the job.
    """
    if _exists(client, job):
        return False
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(job.runtime_env)
        if job.working_dir is not None:
            package = Path(folder, "working_dir.zip")
            pack(job.working_dir, package, job.excludes, job.named)
            environment["working_dir"] = str(package)
        try:
            client.submit_job(
                entrypoint=job.entrypoint,
                submission_id=job.job_id,
                runtime_env=environment,
                metadata={"raydfkd": job.command[1], "out": str(job.out)},
                entrypoint_num_cpus=job.num_cpus or None,
                entrypoint_num_gpus=job.num_gpus or None,
                entrypoint_resources=job.resources or None,
            )
        except RequestRefusedError as error:
            if "already exists" in str(error) and _exists(client, job):
                return False
            raise ResourceError(f"the cluster refuses the job ({error.reason}): correct what it complains about") from error
        except OSError as error:  # requests' errors are OSErrors
            raise ResourceError(
                f"the dashboard stopped answering while job {job.job_id} was sent: send it again with the same --id"
            ) from error
        except (ValueError, TypeError, RuntimeEnvSetupError) as error:
            raise ConfigError(
                f"the runtime environment cannot be used ({_first_line(str(error))}): correct --runtime-env"
            ) from error
    return True


def forget_ended(client: JobClient, job_id: str) -> None:
    """Removes a job that has ended, if there is one, so that another of its name can be sent.

    Raises:
        ResourceError: the cluster does not say whether there is one.
    """
    info = _info(client, job_id)
    if info is not None and info.status.is_terminal():
        client.delete_job(job_id)


def _info(client: JobClient, job_id: str) -> Any:
    """A job's details; None if there is no job of this name."""
    try:
        return client.get_job_info(job_id)
    except RequestRefusedError as error:
        if error.status == 404:
            return None
        raise ResourceError(f"the cluster does not say whether job {job_id} exists ({error.reason}): try again") from error


def _exists(client: JobClient, job: Job) -> bool:
    info = _info(client, job.job_id)
    if info is None:
        return False
    if info.entrypoint != job.entrypoint:
        raise ConfigError(f"job {job.job_id} exists already and runs {info.entrypoint!r}: choose another --id")
    return True


def follow(client: JobClient, job_id: str, write: Callable[[str], None]) -> int:
    """Writes the job's log from its beginning as it grows; returns the job's exit code once it has ended.

    Raises:
        ResourceError: the cluster has no raydfkd.
        RunFailedError: the job was stopped, or failed outside its command.
        WaitTimeoutError: the dashboard has not answered for ``SILENCE_S``.
    """
    return exit_code(asyncio.run(_Follower(client, job_id, write).run()))


class _Follower:
    """Reads the log through one connection at a time, and polls whether the job has ended."""

    def __init__(self, client: JobClient, job_id: str, write: Callable[[str], None]) -> None:
        self._client, self._job_id, self._write = client, job_id, write
        self._written = 0

    async def run(self) -> Any:
        """The job's details after its end."""
        answered = time.monotonic()
        tail = asyncio.create_task(self._tail())
        try:
            while True:
                await asyncio.wait({tail}, timeout=POLL_S)
                try:
                    info = await asyncio.to_thread(self._client.get_job_info, self._job_id)
                except (OSError, RequestRefusedError) as error:  # requests' errors are OSErrors
                    if time.monotonic() - answered > SILENCE_S:
                        raise WaitTimeoutError(
                            f"waited {SILENCE_S:.0f} s for the dashboard to answer about job {self._job_id}, which may go on"
                        ) from error
                    await asyncio.sleep(POLL_S)
                    continue
                answered = time.monotonic()
                if info.status.is_terminal():
                    await asyncio.wait({tail}, timeout=LOG_END_S)
                    return info
                if tail.done():  # the connection broke, not the job
                    await asyncio.sleep(POLL_S)
                    tail = asyncio.create_task(self._tail())
        finally:
            tail.cancel()

    async def _tail(self) -> None:
        """Each connection sends the log from its beginning; the part already written is skipped."""
        received = 0
        try:
            async for text in self._client.tail_job_logs(self._job_id):
                new = text[max(0, self._written - received) :]
                received += len(text)
                if new:
                    self._written += len(new)
                    self._write(new)
        except (aiohttp.ClientError, OSError, RuntimeError):
            return  # ``run`` checks whether the job has ended, and reconnects if not


def exit_code(info: Any) -> int:
    """The exit code from a job's details: the command's own, 1 if it was killed.

    Raises:
        ResourceError: the cluster has no raydfkd.
        RunFailedError: the job was stopped, or failed outside its command.
    """
    name, status, code = info.submission_id, str(info.status.value), info.driver_exit_code
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        raise RunFailedError(f"job {name} was stopped")
    if code == NOT_FOUND:
        raise ResourceError(
            f"job {name} found no raydfkd on the cluster: build it into the nodes' image or environment (cluster/README.md)"
        )
    if code is None:
        raise RunFailedError(f"job {name} failed outside its command ({_first_line(info.message or 'no reason given')})")
    return int(code) if 0 < code < NOT_EXECUTABLE else 1


def fetch(out: Path, target: Path) -> Path:
    """Copies the run directory to ``target``, if this machine can access the storage that it is on.

    Raises:
        RunFailedError: it cannot, or the copy cannot be written.
    """
    if not (out / "manifest.json").exists():
        raise RunFailedError(f"this machine cannot access the job's run directory {out}: copy it from a machine that can")
    try:
        shutil.copytree(out, target, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise RunFailedError(f"run directory {out} cannot be copied to {target} ({_first_line(str(error))})") from error
    return target


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else text
