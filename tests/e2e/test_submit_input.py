"""What users get wrong with ``raydfkd submit``: one clear sentence on stderr, exit code 2, soon, and nothing sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from raydfkd.testing.command import Finished, run_command

pytestmark = pytest.mark.e2e

EXPERIMENT = """\
task: {kind: classification, num_classes: 10, image_shape: [1, 8, 8]}
teacher: {model: small_cnn_8, checkpoint: teacher.safetensors}
sources: {inversion: {method: ssdkd, batch_size: 16}}
replay: {synthetic: {capacity: 64}}
students: {small: {model: small_cnn_8, batch_size: 16}}
schedule: {warmup_batches: 1, rounds: 3, student_steps_per_round: 2}
"""
OUT = ["--out", "/mnt/runs/x"]
NOBODY = ["--address", "http://127.0.0.1:9"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("submit_input")
    (folder / "exp.yaml").write_text(EXPERIMENT)
    (folder / "empty").mkdir()
    (folder / "environment.yaml").write_text("working_dir: .\nenv_vars: [A]\n")
    return folder


def check_refusal(done: Finished, expected: str) -> None:
    assert done.code == 2, f"exit code {done.code}\n{done.out}\n{done.err}"
    assert done.err.startswith("raydfkd: ")
    assert done.err.count("\n") == 1, done.err
    assert expected in done.err
    assert "Traceback" not in done.out + done.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["exp.yaml", *OUT, *NOBODY], "no Ray cluster answers at 'http://127.0.0.1:9' (connection refused)"),
        (["exp.yaml", *OUT, "--address", "ray://127.0.0.1:10001"], "give it as http://HOST:8265"),
        (["exp.yaml", *NOBODY], "--out is 'missing'"),
        (["exp.yaml", "--out", "runs/x", *NOBODY], "--out is 'runs/x': give the run directory as an absolute path"),
        (["exp.yaml", "schedule.roundz=3", *OUT, *NOBODY], "did you mean 'rounds'"),
        (["exp.yaml", "runtime.runner=local", *OUT, *NOBODY], "add runtime.runner=ray"),
        (["gone.yaml", *OUT, *NOBODY], "gone.yaml does not exist"),
        (["empty", *OUT, *NOBODY], "is not a run directory"),
        (["exp.yaml", *OUT, "--working-dir", "empty", *NOBODY], "exp.yaml is outside the working directory"),
        (["exp.yaml", *OUT, "--env", "A", *NOBODY], "--env is 'A': write NAME=VALUE"),
        (["exp.yaml", *OUT, "--entrypoint-resource", "gen_node=many", *NOBODY], "must be a number above 0"),
        (["exp.yaml", *OUT, "--runtime-env", "gone.yaml", *NOBODY], "gone.yaml does not exist"),
        (["exp.yaml", *OUT, "--runtime-env", "environment.yaml", *NOBODY], "env_vars is ['A']"),
        (["exp.yaml", *OUT, "--id", "a/b", *NOBODY], "--id is 'a/b': use letters"),
        (["exp.yaml", *OUT, "--fetch", ".", *NOBODY], "--fetch . is not empty"),
        (["exp.yaml", *OUT, "--fetch", "new", "--no-wait", *NOBODY], "--no-wait returns before"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_sentence(project: Path, arguments: list[str], expected: str) -> None:
    check_refusal(run_command(["submit", *arguments], project), expected)


class _Guarded(BaseHTTPRequestHandler):
    """A dashboard that wants a token, and takes none of ours."""

    def do_GET(self) -> None:
        self.send_response(403 if self.headers.get("Authorization") else 401)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Guarded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "not-this-one"}, "refuses the token of RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "", "HOME": "/nowhere"}, "requires a token: give it in RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "/nowhere/token"),
    ],
    ids=["wrong", "missing", "unreadable"],
)
def test_tokens(project: Path, guarded: str, token: dict[str, str], expected: str) -> None:
    done = run_command(["submit", "exp.yaml", *OUT, "--address", guarded], project, token)
    check_refusal(done, expected)
    assert "not-this-one" not in done.out + done.err


def test_an_address_that_swallows_everything_is_given_up_soon(project: Path) -> None:
    began = time.monotonic()
    done = run_command(["submit", "exp.yaml", *OUT, "--address", "http://192.0.2.123:8265"], project)
    check_refusal(done, "no Ray cluster answers at 'http://192.0.2.123:8265'")
    assert time.monotonic() - began < 60
