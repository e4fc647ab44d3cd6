"""The errors that a user can cause. Each message is one sentence or two: what was got, what is allowed, what to change.

The command line turns a ``RaydfkdError`` into that message and its ``exit_code``, without a traceback. Every other
exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno


class RaydfkdError(Exception):
    """Base class of what a user can put right; ``exit_code`` is the process's."""

    exit_code = 2


class ConfigError(RaydfkdError):
    """An experiment, an override or a command-line value is wrong."""


class UnknownNameError(ConfigError):
    """A registry has no entry of that name; the message offers the nearest ones."""


class CheckpointError(RaydfkdError):
    """A weights or checkpoint file is missing, unsafe, damaged, or of another network."""


class TeacherError(RaydfkdError):
    """The teacher cannot do what the experiment asks of it."""


class DataError(RaydfkdError):
    """A data set, an image file or a snapshot cannot be read as what it should be."""


class RunDirError(RaydfkdError):
    """A run directory is not writable, is finished already, or is not one."""


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
    """Something waited for did not come within its time; the message names it."""


class DiskFullError(RunFailedError):
    """A run's results cannot be written any more: the disk is full, or a quota is used up."""

    @classmethod
    def of(cls, error: BaseException, where: str) -> DiskFullError | None:
        """For an ``OSError`` that says so; None for every other error."""
        if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return None
        return cls(f"{where}: {error.strerror}; free some space, then go on with raydfkd run RUN --resume")


class RunStoppedError(RaydfkdError):
    """The run was asked to stop and did, in order; it can go on."""

    exit_code = 3
