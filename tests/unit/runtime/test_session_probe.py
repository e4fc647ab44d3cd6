"""An address behind which nothing listens is refused in seconds."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from raydfkd.errors import ResourceError
from raydfkd.runtime.ray_session import probe


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        yield listening


@pytest.mark.parametrize("address", [None, "auto", "local", "", "ray://", "somewhere"])
def test_what_names_no_port_is_rays_own_business(address: str | None) -> None:
    probe(address, "runtime.address")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_port_where_somebody_listens_passes_and_another_is_refused(server: socket.socket, form: str) -> None:
    address = form.format(server.getsockname()[1])
    with pytest.raises(
        ResourceError, match=rf"^no Ray cluster answers at '{address}' \(Connection refused\): check runtime.address and that"
    ):
        probe(address, "runtime.address")
    server.listen()
    probe(address, "runtime.address")


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "no.such.host.invalid:10001", "ray://[::1]:1"])
def test_addresses_that_cannot_be_are_refused_with_a_reason(address: str) -> None:
    with pytest.raises(ResourceError, match=r"no Ray cluster answers at .* check --address"):
        probe(address, "--address")


def test_a_host_that_says_nothing_is_waited_for_no_longer_than_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(address: object, timeout: float) -> socket.socket:
        time.sleep(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", never)
    with pytest.raises(ResourceError, match=r"\(timed out\)"):
        probe("10.0.0.1:6379", "runtime.address", timeout_s=0.05)
