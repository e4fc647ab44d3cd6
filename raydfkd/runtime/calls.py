"""Calls to an actor that may be restarting: tried again until it answers, and never for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError

from raydfkd.errors import WaitTimeoutError

RETRY_PERIOD_S = 0.2


def call(submit: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The result of ``submit()``'s remote call.

    Args:
        submit: makes the call and returns its reference; called again after the actor was unavailable.
        timeout_s: over all tries.
        what: is named if the time runs out.

    Raises:
        WaitTimeoutError: no answer in time.
        ActorDiedError: the actor is gone for good.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ray.get(submit(), timeout=max(0.1, deadline - time.monotonic()))
        except GetTimeoutError as error:
            raise WaitTimeoutError(f"waited {timeout_s:.0f} s for {what}, which did not answer") from error
        except (ActorUnavailableError, ActorDiedError) as error:
            # A call in flight when an actor dies reports ActorDiedError even where the actor is being restarted.
            if time.monotonic() > deadline:
                raise WaitTimeoutError(f"waited {timeout_s:.0f} s for {what}, whose actor is not available") from error
            time.sleep(RETRY_PERIOD_S)
