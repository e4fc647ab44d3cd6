"""The reason why a run failed, as sent from the process where it happened to the driver that reports it."""

from __future__ import annotations

import logging
import re
import traceback
from dataclasses import dataclass
from typing import NoReturn

from ray.exceptions import RayTaskError

from raydfkd import errors
from raydfkd.errors import DiskFullError, RaydfkdError, RunFailedError

logger = logging.getLogger(__name__)

_COLOURS = re.compile(r"\x1b\[\d+m")


@dataclass(frozen=True)
class Failure:
    """Plain text, because not every exception survives pickling.

    Attributes:
        where: the part of the run that failed, e.g. ``generator inversion-0``.
        kind: the exception's class name.
        message: the exception's message.
        trace: its traceback.
    """

    where: str
    kind: str
    message: str
    trace: str

    @classmethod
    def of(cls, error: BaseException, where: str) -> Failure:
        cause = original(error)
        cause = DiskFullError.of(cause, f"{where} could not write") or cause
        # Ray's wrapper prints as the traceback of the other process.
        trace = _COLOURS.sub("", str(error) if isinstance(error, RayTaskError) else "".join(traceback.format_exception(error)))
        return cls(where, type(cause).__name__, str(cause), trace)

    @property
    def sentence(self) -> str:
        """The message for the user. The traceback of a bug is in the log."""
        if self._raydfkd_error is not None:
            return self.message
        return f"{self.where} failed with {self.kind}: {self.message.strip() or 'no message'}"

    def raise_again(self) -> NoReturn:
        """Raises a user's error unchanged, and a bug as a failed run with its traceback logged."""
        kind = self._raydfkd_error
        if kind is not None:
            raise kind(self.message)
        logger.error("%s failed:\n%s", self.where, self.trace.rstrip())
        raise RunFailedError(self.sentence)

    @property
    def _raydfkd_error(self) -> type[RaydfkdError] | None:
        kind = getattr(errors, self.kind, None)
        return kind if isinstance(kind, type) and issubclass(kind, RaydfkdError) else None


def original(error: BaseException) -> BaseException:
    """The exception raised in the other process, without Ray's wrapper."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error
