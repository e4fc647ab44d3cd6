"""The errors that a user can cause. Each message is one sentence or two: the value given, what is allowed, what to change.

The command line turns a ``RaydfkdError`` into that message and its ``exit_code``, without a traceback. Every other
exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import re
import sys
import sysconfig
import traceback
from pathlib import Path

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class RaydfkdError(Exception):
    """Base class of errors that the user can fix; ``exit_code`` is the exit code of the process.

    The message has no memory addresses, which Python shows of objects that have no better name.
    """

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(_ADDRESS.sub("", message))


class ConfigError(RaydfkdError):
    """An experiment, an override or a command-line value is wrong."""


class UnknownNameError(ConfigError):
    """A registry has no entry of that name; the message suggests the closest ones."""


class CheckpointError(RaydfkdError):
    """A weights or checkpoint file is missing, unsafe, damaged, or from another network."""


class TeacherError(RaydfkdError):
    """The teacher cannot do what the experiment asks of it."""


class DataError(RaydfkdError):
    """A data set, an image file or a snapshot cannot be read."""


class DownloadError(RaydfkdError):
    """A file cannot be downloaded: no network, a server's refusal, or bytes that are not the published ones."""

    exit_code = 1


class RunDirError(RaydfkdError):
    """A run directory is not writable, already finished, or not a run directory."""


class RunInUseError(RunDirError):
    """A living process owns the run directory (or sweep, data set, weights file)."""


class RunTakenOverError(RunDirError):
    """Another process took the run directory over, because this one gave no sign of life."""


class ResourceError(RaydfkdError):
    """The experiment asks for more than this machine or cluster has."""


class RateLimiterError(ConfigError):
    """Rate-limiter settings under which a generator and a student would wait for each other forever."""


class ReplayFullError(RaydfkdError):
    """A table that never evicts has no room left."""


class RunFailedError(RaydfkdError):
    """The run started and failed; the first error is the one reported."""

    exit_code = 1


class WaitTimeoutError(RunFailedError):
    """A wait timed out; the message says for what."""


class DiskFullError(RunFailedError):
    """A run's results can no longer be written: the disk is full, or a quota is used up."""

    @classmethod
    def of(cls, error: BaseException, where: str) -> DiskFullError | None:
        """For an ``OSError`` that reports a full disk or quota; None for every other error."""
        if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return None
        return cls(f"{where}: {error.strerror}; free some space, then resume with raydfkd run RUN --resume")


class RunStoppedError(RaydfkdError):
    """The run stopped cleanly because it was asked to; it can be resumed."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """An exception's message, at most its first line; its type where it has none."""
    return (str(error).splitlines() or [""])[0].strip()[:200] or type(error).__name__


def described(error: BaseException) -> str:
    """An exception of a user's code in half a sentence: type, message, and file and line where they are the user's."""
    message = first_line(error)
    told = message if message == type(error).__name__ else f"{type(error).__name__}: {message}"
    where = raised_in(error)
    return told if where is None else f"{told} ({where})"


def raised_in(error: BaseException) -> str | None:
    """``FILE:LINE`` of the innermost call in code that is neither ours, nor torch's, nor Python's; None: there is none."""
    torch = sys.modules.get("torch")
    folders = [Path(__file__).parent, *(Path(module.__file__).parent for module in (torch,) if module and module.__file__)]
    python = Path(sysconfig.get_path("stdlib"))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        pythons = path.is_relative_to(python) and "site-packages" not in path.parts
        if path.is_file() and not pythons and not any(path.is_relative_to(folder) for folder in folders):
            return f"{path}:{frame.lineno}"
    return None
