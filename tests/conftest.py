"""Settings of every test: few threads (two cores), quiet Ray, and outcomes that depend neither on chance nor on the order."""

from __future__ import annotations

import os
import random
import signal
import sys

import pytest
from hypothesis import settings

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts its background commands so, and they hand it on to the commands on which tests try Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("fixed", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("free", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("RAYDFKD_HYPOTHESIS", "fixed"))
"""``fixed`` tries the same examples each time; ``free`` (make test-slow) others, and keeps one that fails in .hypothesis."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Whichever tests ran before in this process: what draws from a global generator draws the same, and one thread computes.

    Where other processes keep the cores busy, two threads wait for each other at every operation.
    """
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
