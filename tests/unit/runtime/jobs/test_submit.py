"""Sending and following a job, against a client that plays the cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from raydfkd.errors import ConfigError, ResourceError, RunFailedError, WaitTimeoutError
from raydfkd.runtime.jobs import job_submission as module
from raydfkd.runtime.jobs.job_client import RequestRefusedError
from raydfkd.runtime.jobs.job_submission import Job, exit_code, fetch, follow, submit

LOG = "starting Ray\nstep 1\nstep 2\n"


def details(status: JobStatus, code: int | None = None, message: str = "", entrypoint: str = "raydfkd run x") -> Any:
    return SimpleNamespace(submission_id="j", status=status, driver_exit_code=code, message=message, entrypoint=entrypoint)


@dataclass
class FakeClient:
    """Answers with ``infos`` in turn (the last for ever); each connection to the log gives ``pieces`` and may then break."""

    infos: list[Any]
    connections: list[tuple[list[str], bool]] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    refusal: Exception | None = None

    def get_job_info(self, job_id: str) -> Any:
        info = self.infos.pop(0) if len(self.infos) > 1 else self.infos[0]
        if isinstance(info, Exception):
            raise info
        return info

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        pieces, breaks = self.connections.pop(0) if self.connections else ([], False)
        for piece in pieces:
            yield piece
        if breaks:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def submit_job(self, **settings: Any) -> str:
        if self.refusal is not None:
            raise self.refusal
        package = settings["runtime_env"].get("working_dir")
        self.sent.append({**settings, "package": package is not None and Path(package).exists()})
        return "j"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)


def followed(client: FakeClient) -> tuple[int, str]:
    written: list[str] = []
    code = follow(client, "j", written.append)  # type: ignore[arg-type]
    return code, "".join(written)


RUNNING = details(JobStatus.RUNNING)


def test_the_log_is_written_once_although_its_connection_breaks() -> None:
    client = FakeClient(
        [RUNNING, RUNNING, RUNNING, RUNNING, RUNNING, RUNNING, details(JobStatus.SUCCEEDED, 0)],
        [([LOG[:9]], True), ([LOG[:5], LOG[5:20]], True), ([LOG], False)],
    )
    assert followed(client) == (0, LOG)


@pytest.mark.parametrize(("code", "expected"), [(1, 1), (2, 2), (-9, 1), (137, 1), (126, 1), (3, 3)])
def test_the_exit_code_is_the_job_s(code: int, expected: int) -> None:
    assert followed(FakeClient([details(JobStatus.FAILED, code)], [(["x\n"], False)])) == (expected, "x\n")


@pytest.mark.parametrize(
    ("info", "error", "expected"),
    [
        (details(JobStatus.STOPPED), RunFailedError, "job j was stopped"),
        (details(JobStatus.FAILED, None, "runtime_env setup failed:\nmore"), RunFailedError, r"\(runtime_env setup failed\)"),
        (details(JobStatus.FAILED, 127), ResourceError, "found no raydfkd on the cluster"),
    ],
)
def test_jobs_that_end_otherwise(info: Any, error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        exit_code(info)


def test_a_dashboard_that_is_silent_for_a_while_and_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = ConnectionError("gone")
    assert followed(FakeClient([RUNNING, silent, silent, details(JobStatus.SUCCEEDED, 0)])) == (0, "")
    monkeypatch.setattr(module, "SILENCE_S", 0.05)
    with pytest.raises(WaitTimeoutError, match="for the dashboard to answer about job j"):
        followed(FakeClient([RUNNING, silent]))


def job(tmp_path: Path, **more: Any) -> Job:
    (tmp_path / "a.py").write_text("")
    return Job(("raydfkd", "run", "x"), tmp_path / "out", {"env_vars": {"A": "1"}}, tmp_path, job_id="j", **more)


MISSING = RequestRefusedError(404, "Job j does not exist")


def test_a_new_job_is_sent_with_its_package(tmp_path: Path) -> None:
    client = FakeClient([MISSING])
    assert submit(client, job(tmp_path, num_cpus=2, resources={"gen_node": 1.0}))  # type: ignore[arg-type]
    (sent,) = client.sent
    assert sent["package"]
    assert (sent["entrypoint"], sent["submission_id"]) == ("raydfkd run x", "j")
    assert sent["runtime_env"]["env_vars"] == {"A": "1"}
    assert (sent["entrypoint_num_cpus"], sent["entrypoint_num_gpus"], sent["entrypoint_resources"]) == (
        2,
        None,
        {"gen_node": 1.0},
    )


def test_the_same_job_is_not_sent_twice(tmp_path: Path) -> None:
    client = FakeClient([RUNNING])
    assert not submit(client, job(tmp_path))  # type: ignore[arg-type]
    assert client.sent == []
    raced = FakeClient([MISSING, RUNNING], refusal=RequestRefusedError(400, "Job with submission_id j already exists."))
    assert not submit(raced, job(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="choose another --id"):
        submit(FakeClient([details(JobStatus.RUNNING, entrypoint="other")]), job(tmp_path))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("refusal", "error", "expected"),
    [
        (RequestRefusedError(500, "Traceback\nValueError: no"), ResourceError, r"refuses the job \(ValueError: no\)"),
        (ValueError("pip and conda\ncannot both be given"), ConfigError, r"\(pip and conda\): correct --runtime-env"),
        (ConnectionError("gone"), ResourceError, "send it again with the same --id"),
    ],
)
def test_a_job_that_is_refused(tmp_path: Path, refusal: Exception, error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        submit(FakeClient([MISSING], refusal=refusal), job(tmp_path))  # type: ignore[arg-type]


def test_fetching(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match="cannot access the job's run directory"):
        fetch(tmp_path / "out", tmp_path / "here")
    (tmp_path / "out/checkpoints").mkdir(parents=True)
    (tmp_path / "out/manifest.json").write_text("{}")
    assert (fetch(tmp_path / "out", tmp_path / "here") / "checkpoints").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailedError, match="cannot be copied to"):
        fetch(tmp_path / "out", tmp_path / "file")
