"""What the program does when it is told to end: SIGTERM (docker stop, kill, batch systems, ray job stop) or SIGHUP.

By default the signal interrupts what is going on, as Ctrl-C does. A run does not let itself be interrupted but ends at its
next round, with everything saved (see ``deferred``). A second signal ends the process at once. A signal that the process was
started to ignore, as with nohup, stays ignored.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from raydfkd.errors import RunStoppedError

_NAMES = ("SIGTERM", "SIGHUP")


class StopSignal(KeyboardInterrupt):
    """A signal, the message, interrupts the program as Ctrl-C does."""

    exit_code = RunStoppedError.exit_code


class _Received:
    """This process's signals, as processes have them: one for all threads."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.then: Callable[[], None] | None = None
        self.is_installed = False

    def __call__(self, number: int, frame: Any) -> None:
        if self.name is not None:
            os._exit(128 + number)
        self.name = signal.Signals(number).name
        if self.then is None:
            raise StopSignal(self.name)
        self.then()


_received = _Received()


def install() -> None:
    """Handles the signals from now on; again, where a library has put its own handlers in their place."""
    _received.is_installed = True
    for name in _NAMES:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _received)


def is_installed() -> bool:
    """Whether this program handles the signals; a user's own program that calls ``raydfkd.distill`` may do it itself."""
    return _received.is_installed


def requested() -> bool:
    """Whether a signal has asked this process to end."""
    return _received.name is not None


def interruption() -> KeyboardInterrupt:
    """What interrupted this process: the signal, or Ctrl-C where none was received."""
    return KeyboardInterrupt() if _received.name is None else StopSignal(_received.name)


def interrupt_if_requested() -> None:
    """For a place within ``deferred`` where everything is saved, or there is nothing to save.

    Raises:
        StopSignal: a signal has asked this process to end.
    """
    if _received.name is not None:
        raise StopSignal(_received.name)


def _wait_for_it() -> None:
    """Nothing: whoever defers the signal asks ``requested`` from time to time."""


@contextmanager
def deferred(then: Callable[[], None] = _wait_for_it) -> Iterator[None]:
    """A signal within the block calls ``then`` and interrupts nothing."""
    before, _received.then = _received.then, then
    try:
        yield
    finally:
        _received.then = before
