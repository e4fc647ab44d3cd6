"""An error of another process arrives as the user's mistake that it is, or as a failed run with its traceback."""

from __future__ import annotations

import errno
import logging

import pytest
from ray.exceptions import RayTaskError

from raydfkd.errors import CheckpointError, DiskFullError, RunFailedError
from raydfkd.runtime.failures import Failure, original


def raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


def wrapped(error: Exception) -> RayTaskError:
    """As ``ray.get`` raises it."""
    return RayTaskError("work", f"Traceback:\n  File 'work.py'\n{error!r}", error).as_instanceof_cause()


@pytest.mark.parametrize("wrap", [lambda error: error, wrapped])
def test_a_users_mistake_keeps_its_kind_and_sentence(wrap: object) -> None:
    failure = Failure.of(wrap(raised(CheckpointError("the file is torn"))), "generator inversion-0")  # type: ignore[operator]
    assert failure.sentence == "the file is torn"
    with pytest.raises(CheckpointError, match=r"^the file is torn$"):
        failure.raise_again()


def test_a_bug_is_a_failed_run_and_its_traceback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    failure = Failure.of(wrapped(raised(ZeroDivisionError("division by zero"))), "generator inversion-0")
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(RunFailedError, match=r"^generator inversion-0 failed with ZeroDivisionError"),
    ):
        failure.raise_again()
    assert "File 'work.py'" in caplog.text
    assert "\x1b" not in caplog.text, "colours are for terminals"


def test_of_an_error_without_a_message_its_kind_is_told() -> None:
    assert Failure.of(raised(KeyError()), "the log").sentence == "the log failed with KeyError: no message"


def test_wrappers_within_wrappers_are_taken_off() -> None:
    inner = ValueError("inner")
    assert original(wrapped(wrapped(inner))) is inner
    assert original(inner) is inner


def test_a_full_disk_is_told_as_such_and_not_as_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    failure = Failure.of(wrapped(OSError(errno.ENOSPC, "No space left on device", "/run/x")), "student worker 0")
    with caplog.at_level(logging.ERROR), pytest.raises(DiskFullError) as told:
        failure.raise_again()
    assert str(told.value).startswith("student worker 0 could not write: No space left on device; free some space, then resume")
    assert caplog.text == ""
    assert "PermissionError" in Failure.of(wrapped(PermissionError(errno.EACCES, "Permission denied")), "x").sentence
