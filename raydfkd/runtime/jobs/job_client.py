"""Access to a cluster's dashboard: its address, its token, and Ray's job client with a timeout on every request."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from ray.job_submission import JobSubmissionClient

from raydfkd.errors import ConfigError, ResourceError

CONNECT_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 60.0
UPLOAD_TIMEOUT_S = 600.0

REDIRECTING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
"""Variables that Ray's client prefers to the address that it is given."""
TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")


class RequestRefusedError(Exception):
    """The dashboard answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text}")
        self.status = status
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        self.reason = lines[-1] if lines else f"status {status}"


class JobClient(JobSubmissionClient):
    """Replaces Ray's own request, which has no timeout and does not report the status."""

    def _do_request(self, method: str, endpoint: str, **settings: Any) -> Any:
        patience_s = UPLOAD_TIMEOUT_S if method == "PUT" else REQUEST_TIMEOUT_S
        return super()._do_request(method, endpoint, timeout=(CONNECT_TIMEOUT_S, patience_s), **settings)

    def _raise_error(self, r: Any) -> None:
        raise RequestRefusedError(r.status_code, r.text)


def connect(address: str, environment: Mapping[str, str]) -> JobClient:
    """A client of the dashboard at ``address``, with the token from ``environment`` if the cluster requires one.

    Raises:
        ConfigError: the address cannot be that of a dashboard, or a token file cannot be read.
        ResourceError: nothing answers there, the server is not Ray, or it refuses the token.
    """
    url = dashboard_url(address)
    headers = _authorization(url, environment)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    with _without(REDIRECTING):
        return JobClient(url, headers=headers)


def dashboard_url(address: str) -> str:
    """``address`` with its scheme, without a trailing slash.

    Raises:
        ConfigError: it has another scheme, such as ray://, or is not an address.
    """
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        broken = parts.scheme not in ("http", "https") or not parts.hostname or address == "auto" or parts.port == 0
    except ValueError:  # the port is not a number
        broken = True
    if broken:
        raise ConfigError(f"--address is {address!r}: jobs go to the cluster's dashboard, give it as http://HOST:8265")
    return url.rstrip("/")


def token_of(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """(token, its origin), searched where Ray does: a variable, the file named by another, the file in the home directory.

    Raises:
        ConfigError: RAY_AUTH_TOKEN_PATH names a file that cannot be read or is empty.
    """
    if environment.get("RAY_AUTH_TOKEN", "").strip():
        return environment["RAY_AUTH_TOKEN"].strip(), "RAY_AUTH_TOKEN"
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path(environment.get("HOME", "~")).expanduser() / ".ray" / "auth_token"
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if named:
            raise ConfigError(f"RAY_AUTH_TOKEN_PATH names {path}, which cannot be read: correct it or unset it") from error
        return None
    if named and not token:
        raise ConfigError(f"RAY_AUTH_TOKEN_PATH names {path}, which is empty: write the cluster's token into it")
    return (token, str(path)) if token else None


def _authorization(url: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The header that the cluster requires, if any. A token is sent only to a server that asks for one."""
    mode = environment.get("RAY_AUTH_MODE", "")
    found = token_of(environment) if mode != "disabled" else None
    status = _status(url, {})
    if status == 200:
        return {}
    if status == 401 and found is not None:
        headers = {"Authorization": f"Bearer {found[0]}"}
        status = _status(url, headers)
        if status == 200:
            return headers
    if status not in (401, 403):
        raise ResourceError(
            f"the server at {url!r} is not a Ray dashboard (status {status}): give http://HOST:8265 of the head"
        )
    if found is None:
        how = "unset RAY_AUTH_MODE=disabled and give" if mode == "disabled" else "give"
        raise ResourceError(f"the cluster at {url!r} requires a token: {how} it in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH")
    raise ResourceError(f"the cluster at {url!r} refuses the token of {found[1]}: give the cluster's own in RAY_AUTH_TOKEN")


def _status(url: str, headers: dict[str, str]) -> int:
    """HTTP status of the dashboard's version page; 0 if the page is not from a dashboard.

    Raises:
        ResourceError: nothing answers.
    """
    try:
        answer = requests.get(f"{url}/api/version", headers=headers, timeout=(CONNECT_TIMEOUT_S, PROBE_TIMEOUT_S))
    except requests.exceptions.RequestException as error:
        raise ResourceError(
            f"no Ray cluster answers at {url!r} ({_reason(error)}): correct --address (the dashboard's), or start a cluster"
        ) from error
    try:
        known = answer.status_code != 200 or "ray_version" in answer.json()
    except (ValueError, TypeError):
        known = False
    return int(answer.status_code) if known else 0


def _reason(error: Exception) -> str:
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not accepted"
    return "connection refused" if "refused" in str(error) else "cannot be reached"


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
