"""Calls to actors that do not answer, are dead, or raise."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from raydfkd.errors import DataError, RunFailedError, WaitTimeoutError
from raydfkd.runtime.calls import call


class Answerer:
    """Says who it is, or what is wrong."""

    def pid(self) -> int:
        return os.getpid()

    def refuse(self) -> None:
        raise DataError("these are no data")

    def fail(self) -> None:
        raise ZeroDivisionError("a bug")


@pytest.fixture
def answerer(ray_instance: None) -> Iterator[Any]:
    actor = ray.remote(Answerer).options(num_cpus=0, max_restarts=1).remote()
    yield actor
    ray.kill(actor)


def test_an_actor_that_does_not_answer_is_named(answerer: Any) -> None:
    pid = ray.get(answerer.pid.remote())
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(WaitTimeoutError, match=r"^waited 1 s for the oracle, which did not answer$"):
            call(answerer.pid.remote, 1.0, "the oracle")
    finally:
        os.kill(pid, signal.SIGCONT)


def test_one_that_comes_back_is_asked_again_and_one_dead_for_good_is_not_waited_for(answerer: Any) -> None:
    pid = ray.get(answerer.pid.remote())
    os.kill(pid, signal.SIGKILL)
    assert call(answerer.pid.remote, 300.0, "the oracle") != pid
    ray.kill(answerer)

    def ask_until_it_is_gone() -> None:  # ray.kill does not wait: calls may still be answered for a moment
        while True:
            call(answerer.pid.remote, 300.0, "the oracle")

    with pytest.raises(RunFailedError, match=r"^the oracle died more often than runtime.max_restarts allows$"):
        ask_until_it_is_gone()


def test_a_users_mistake_comes_back_as_itself_and_a_bug_with_its_traceback(answerer: Any) -> None:
    with pytest.raises(DataError, match=r"^these are no data$"):
        call(answerer.refuse.remote, 300.0, "the oracle")
    with pytest.raises(ZeroDivisionError, match="in fail"):
        call(answerer.fail.remote, 300.0, "the oracle")
