"""The pool of generator actors: starts them, replaces the dead from their last state, attaches them to the replay actor."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from raydfkd.errors import WaitTimeoutError
from raydfkd.pipeline.config import ExperimentConfig
from raydfkd.runtime.calls import call
from raydfkd.runtime.generator_actor import GeneratorActor
from raydfkd.runtime.session import requested

WATCH_PERIOD_S = 0.5


@dataclass
class _Member:
    """One generator's place in the run, whoever fills it."""

    source: str
    index: int
    turn: int
    actor: Any = None
    state: bytes | None = None
    state_taken_at: float = 0.0
    restarts: int = 0
    pid: int | None = None

    @property
    def generator_id(self) -> str:
        return f"{self.source}-{self.index}"


@ray.remote(num_cpus=0, max_concurrency=8)
class GeneratorPoolActor:
    """Owns the generator actors of a run.

    Args:
        config: the experiment.
        replay, weight_store, log: the run's other actors.
        restore_from: a checkpoint folder with generator states, None to begin.
    """

    def __init__(self, config: ExperimentConfig, replay: Any, weight_store: Any, log: Any, restore_from: Path | None) -> None:
        self._config = config
        self._replay, self._weight_store, self._log = replay, weight_store, log
        self._members = [_Member(source, index, turn) for turn, (source, index) in enumerate(config.generators)]
        self._failure: str | None = None
        self._closed = False
        for member in self._members:
            if restore_from is not None:
                path = restore_from / "generators" / f"{member.generator_id}.pt"
                member.state = path.read_bytes() if path.exists() else None
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def start(self) -> list[int]:
        """Starts all generators and returns their process ids.

        Raises:
            WaitTimeoutError: one was not placed in time.
        """
        for member in self._members:
            self._create(member)
        for member in self._members:
            self._await_ready(member)
            ray.get(self._replay.attach.remote(member.generator_id, member.actor))
        self._watcher.start()
        return [member.pid or 0 for member in self._members]

    def pids(self) -> dict[str, int | None]:
        return {member.generator_id: member.pid for member in self._members}

    def failure(self) -> str | None:
        """Why the pool gave up, or None."""
        return self._failure

    def save(self, folder: Path) -> None:
        """Writes every generator's state into a checkpoint folder."""
        for member in self._members:
            self._take_state(member)
            if member.state is not None:
                (folder / "generators" / f"{member.generator_id}.pt").write_bytes(member.state)

    def close(self, timeout_s: float) -> None:
        """Lets the generators finish the batch in hand, then ends them."""
        self._closed = True
        for member in self._members:
            if member.actor is not None:
                member.actor.drain.remote()
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._attached():
            time.sleep(0.1)
        for member in self._members:
            if member.actor is not None:
                ray.kill(member.actor)

    def _attached(self) -> list[str]:
        try:
            return ray.get(self._replay.attached.remote(), timeout=5)
        except (RayError, GetTimeoutError):
            return []

    def _create(self, member: _Member) -> None:
        need = requested(self._config.sources[member.source].resources)
        options = {
            "num_cpus": need.pop("CPU"),
            "num_gpus": need.pop("GPU", 0),
            "resources": need,
            "scheduling_strategy": "DEFAULT",
        }
        member.actor = GeneratorActor.options(**options).remote(
            self._config, member.source, member.index, member.turn, self._replay, self._weight_store, member.state
        )

    def _await_ready(self, member: _Member) -> None:
        timeout_s = self._config.runtime.wait_timeout_s
        try:
            member.pid = ray.get(member.actor.ready.remote(), timeout=timeout_s)
        except GetTimeoutError as error:
            raise WaitTimeoutError(
                f"waited {timeout_s:.0f} s for generator {member.generator_id} to start: the cluster has no free "
                f"{requested(self._config.sources[member.source].resources)} for it"
            ) from error

    def _take_state(self, member: _Member) -> None:
        try:
            member.state = ray.get(member.actor.state.remote(), timeout=self._config.runtime.wait_timeout_s)
            member.state_taken_at = time.monotonic()
        except (RayActorError, GetTimeoutError):
            return  # The watcher replaces the dead; the last known state stays.

    def _watch(self) -> None:
        taken = time.monotonic()
        while not self._closed and self._failure is None:
            time.sleep(WATCH_PERIOD_S)
            for member in self._members:
                if not self._closed:
                    self._check(member)
            self._reattach()
            if time.monotonic() - taken > self._config.runtime.snapshot_period_s:
                for member in self._members:
                    self._take_state(member)
                taken = time.monotonic()

    def _check(self, member: _Member) -> None:
        try:
            ray.get(member.actor.ready.remote(), timeout=5)
        except GetTimeoutError:
            return  # Busy is not dead.
        except RayActorError:
            self._replace(member)

    def _replace(self, member: _Member) -> None:
        if self._closed:
            return
        member.restarts += 1
        if member.restarts > self._config.runtime.max_restarts:
            self._failure = (
                f"generator {member.generator_id} died {member.restarts} times, which is more than runtime.max_restarts "
                f"{self._config.runtime.max_restarts}"
            )
            self._replay.abort.remote(self._failure)
            return
        call(lambda: self._replay.cancel.remote(member.generator_id), self._config.runtime.wait_timeout_s, "the replay actor")
        self._create(member)
        self._await_ready(member)
        age = "its beginning" if member.state is None else f"its state of {time.monotonic() - member.state_taken_at:.0f} s ago"
        self._attach(member)
        message = f"generator {member.generator_id} died and was restarted from {age}; its delivered images stay"
        self._log.push.remote("event", 0, {"message": message, "restart": True})

    def _reattach(self) -> None:
        """A replay actor that came back knows no streams."""
        try:
            attached = ray.get(self._replay.attached.remote(), timeout=5)
        except (RayError, GetTimeoutError):
            return
        for member in self._members:
            if member.generator_id not in attached and not self._closed:
                self._attach(member)

    def _attach(self, member: _Member) -> None:
        call(
            lambda: self._replay.attach.remote(member.generator_id, member.actor),
            self._config.runtime.wait_timeout_s,
            "the replay actor",
        )
