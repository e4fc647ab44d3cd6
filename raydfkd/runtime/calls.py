"""Calls to an actor that may be restarting: retried until it answers, for a bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayTaskError

from raydfkd.errors import RaydfkdError, RunFailedError, WaitTimeoutError
from raydfkd.runtime.failures import original

RETRY_PERIOD_S = 0.2
NUM_DEATHS_TO_BELIEVE = 5
"""Seconds to keep retrying: a call in flight when an actor dies may report a permanent death although it is being restarted."""


def call(submit: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The result of ``submit()``'s remote call.

    Args:
        submit: makes the call and returns its reference; called again if the actor was unavailable.
        timeout_s: in total, over all attempts.
        what: what the caller waits for, named in the timeout error.

    Raises:
        WaitTimeoutError: no answer in time.
        RunFailedError: the actor is permanently dead.
        RaydfkdError: raised by the actor.
    """
    deadline = time.monotonic() + timeout_s
    deaths = 0
    while True:
        try:
            return ray.get(submit(), timeout=max(0.1, deadline - time.monotonic()))
        except GetTimeoutError as error:
            raise WaitTimeoutError(f"waited {timeout_s:.0f} s for {what}, which did not answer") from error
        except RayTaskError as error:
            cause = original(error)
            if isinstance(cause, RaydfkdError):
                raise cause from None
            raise
        except (ActorUnavailableError, ActorDiedError) as error:
            deaths = deaths + 1 if isinstance(error, ActorDiedError) else 0
            if deaths >= NUM_DEATHS_TO_BELIEVE:
                raise RunFailedError(f"{what} died more often than runtime.max_restarts allows") from error
            if time.monotonic() > deadline:
                raise WaitTimeoutError(f"waited {timeout_s:.0f} s for {what}, which is not available") from error
            time.sleep(RETRY_PERIOD_S)
