"""The way to the dashboard: addresses, tokens, what else can answer there; against a small server that plays the dashboard."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from raydfkd.errors import ConfigError, ResourceError
from raydfkd.runtime.jobs.job_client import RequestRefusedError, connect, dashboard_url, token_of

VERSION = b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "x"}'


class Dashboard(ThreadingHTTPServer):
    """Wants ``token`` if it is given one, and remembers the tokens that it was shown."""

    token: str | None = None
    body = VERSION
    shown: list[str | None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        shown = self.headers.get("Authorization")
        self.server.shown.append(shown)
        wanted = self.server.token
        status = 200 if wanted is None or shown == f"Bearer {wanted}" else 401 if shown is None else 403
        if self.path.startswith("/api/jobs/"):
            status = 500
        self.send_response(status)
        self.end_headers()
        self.wfile.write(self.server.body if status == 200 else b"Traceback:\nValueError: the reason")

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    server = Dashboard(("127.0.0.1", 0), _Handler)
    server.shown = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_without_a_token_where_none_is_asked_for(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # Ray's client would follow it
    client = connect(dashboard.url, {"RAY_AUTH_TOKEN": "secret"})
    assert client.get_address() == dashboard.url
    assert set(dashboard.shown) == {None}


def test_with_the_token_that_is_asked_for(dashboard: Dashboard, tmp_path: Path) -> None:
    dashboard.token = "secret"
    (tmp_path / "token").write_text("secret\n")
    for environment in ({"RAY_AUTH_TOKEN": "secret"}, {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}):
        assert connect(dashboard.url, environment).get_address() == dashboard.url
    (tmp_path / ".ray").mkdir()
    (tmp_path / "token").rename(tmp_path / ".ray" / "auth_token")
    assert connect(dashboard.url, {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}).get_address() == dashboard.url


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "/nowhere"}, "requires a token: give it in RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": "secret", "RAY_AUTH_MODE": "disabled"}, "unset RAY_AUTH_MODE=disabled"),
        ({"RAY_AUTH_TOKEN": "wrong"}, "refuses the token of RAY_AUTH_TOKEN"),
    ],
)
def test_a_token_that_is_missing_or_wrong(dashboard: Dashboard, environment: dict[str, str], expected: str) -> None:
    dashboard.token = "secret"
    with pytest.raises(ResourceError, match=expected) as raised:
        connect(dashboard.url, environment)
    assert "secret" not in str(raised.value)
    assert "wrong" not in str(raised.value)


def test_a_token_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        token_of({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "gone")})
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        token_of({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "empty")})


def test_nothing_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ResourceError, match=r"no Ray cluster answers at .* \(connection refused\): correct --address"):
            connect(address, {})
    with pytest.raises(ResourceError, match="cannot be reached"):
        connect("http://no-such-host.invalid:8265", {})


@pytest.mark.parametrize("body", [b"<html>", b'{"version": "4"}', b"[]", b"3"])
def test_something_else_answers(dashboard: Dashboard, body: bytes) -> None:
    dashboard.body = body
    with pytest.raises(ResourceError, match="is not a Ray dashboard"):
        connect(dashboard.url, {})


def test_a_refused_request_keeps_status_and_reason(dashboard: Dashboard) -> None:
    client = connect(dashboard.url, {})
    with pytest.raises(RequestRefusedError) as raised:
        client.get_job_info("x")
    assert (raised.value.status, raised.value.reason) == (500, "ValueError: the reason")


def test_addresses() -> None:
    assert dashboard_url("head:8265") == "http://head:8265"
    assert dashboard_url("https://head/ray/") == "https://head/ray"
    for wrong in ("ray://head:10001", "auto", "http://", "head:port", "ftp://head", ""):
        with pytest.raises(ConfigError, match="http://HOST:8265"):
            dashboard_url(wrong)
