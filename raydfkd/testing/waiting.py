"""Waiting for something that another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_until(done: Callable[[], Any], timeout_s: float, what: str | Callable[[], str]) -> None:
    """Polls ``done`` until it returns true.

    Raises:
        AssertionError: it did not within ``timeout_s``; ``what`` ends the message.
    """
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)
