"""The pool of generator actors: starts them, replaces the dead from their last state, attaches them to the replay actor."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from raydfkd.errors import RunFailedError, WaitTimeoutError
from raydfkd.pipeline.config import generator_id
from raydfkd.run_dir import generator_path, write_atomically
from raydfkd.runtime.calls import call
from raydfkd.runtime.failures import Failure
from raydfkd.runtime.generator_actor import GeneratorActor
from raydfkd.runtime.preflight import amounts, requested
from raydfkd.runtime.run_context import RunContext

WATCH_PERIOD_S = 0.5
PATIENCE_S = 5.0


@dataclass
class _Member:
    """One generator's place in the run, whoever fills it. ``building`` is its pending answer while it starts."""

    source: str
    index: int
    turn: int
    actor: Any = None
    building: Any = None
    pid: int | None = None
    state: bytes | None = None
    has_delivered: bool = False
    state_taken_at: float = 0.0
    restarts: int = 0
    told_pending: bool = False
    started_at: float = 0.0

    @property
    def name(self) -> str:
        return generator_id(self.source, self.index)


class GeneratorPool:
    """Owns the generator actors of a run.

    Args:
        context: the run.
        restore_from: a checkpoint folder with generator states, None to begin.
    """

    def __init__(self, context: RunContext, restore_from: Path | None) -> None:
        self._context, self._config = context, context.config
        self._timeout_s = context.config.runtime.wait_timeout_s
        self._replay, self._log = context.actor("replay"), context.actor("log")
        self._members = [_Member(source, index, turn) for turn, (source, index) in enumerate(self._config.generators)]
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._guarded, args=(self._watch,), name="watcher", daemon=True)
        for member in self._members:
            path = generator_path(context.run.preparation if restore_from is None else restore_from, member.name)
            member.state = path.read_bytes() if path.exists() else None

    def start(self) -> None:
        """Starts all generators, and the watch over them. What goes wrong is left with the run's log as its failure."""
        self._guarded(self._start_all)
        self._watcher.start()

    def pids(self) -> dict[str, int | None]:
        """Process id of every generator; None of one that is being started."""
        return {member.name: None if member.building is not None else member.pid for member in self._members}

    def save(self, folder: Path) -> None:
        """Writes every generator's state into a checkpoint folder."""
        self._take_states()
        self._write(folder, self._members)

    def close(self, timeout_s: float) -> None:
        """Lets the generators finish the batch in hand, then ends them."""
        self._closed.set()
        actors = [member.actor for member in self._members if member.actor is not None]
        for actor in actors:
            actor.drain.remote()
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._attached():
            time.sleep(0.05)
        for actor in actors:
            ray.kill(actor)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            if not self._closed.is_set():
                self._fail(Failure.of(error, "the generator pool"))

    def _fail(self, failure: Failure) -> None:
        self._log.fail.remote(failure)
        self._replay.abort.remote(failure.sentence)

    def _start_all(self) -> None:
        for member in self._members:
            self._create(member)
        for member in self._members:
            try:
                self._finish_start(member, self._timeout_s)
            except GetTimeoutError as error:
                raise WaitTimeoutError(f"waited {self._timeout_s:.0f} s for {self._whereabouts(member)}") from error
            except RayActorError:
                continue  # The watcher will find it dead, and replace it.

    def _create(self, member: _Member) -> None:
        need = requested(self._config.sources[member.source].resources)
        options = {"num_cpus": need.pop("CPU"), "num_gpus": need.pop("GPU", 0), "resources": need}
        if not self._context.grouped:
            # A generator is not captured by a placement group that this actor might have been started in.
            options["scheduling_strategy"] = "DEFAULT"
        actor_class: Any = GeneratorActor
        member.actor = actor_class.options(**options).remote(self._context, member.source, member.index, member.turn)
        member.building = member.actor.build.remote(member.state)
        member.started_at, member.told_pending = time.monotonic(), False

    def _finish_start(self, member: _Member, timeout_s: float) -> None:
        """Attaches a generator once its networks are built.

        Raises:
            GetTimeoutError: they are not.
            RayActorError: it died.
        """
        member.pid = ray.get(member.building, timeout=timeout_s)
        member.building = None
        self._attach(member)

    def _attach(self, member: _Member) -> None:
        call(lambda: self._replay.attach.remote(member.name, member.actor), self._timeout_s, "the replay actor")

    def _watch(self) -> None:
        taken = time.monotonic()
        while not self._closed.wait(WATCH_PERIOD_S):
            for member in self._members:
                if not self._closed.is_set():
                    self._check(member)
            self._reattach()
            if time.monotonic() - taken > self._config.runtime.snapshot_period_s:
                self._take_states()
                self._keep_preparation()
                taken = time.monotonic()

    def _check(self, member: _Member) -> None:
        try:
            if member.building is None:
                ray.get(member.actor.alive.remote(), timeout=PATIENCE_S)
                return
            self._finish_start(member, 0)
        except GetTimeoutError:
            self._tell_pending(member)
            return
        except RayActorError:
            self._replace(member)
            return
        age = "its beginning" if member.state is None else f"its state of {time.monotonic() - member.state_taken_at:.0f} s ago"
        self._event(f"generator {member.name} died and was restarted from {age}; its delivered images stay", restart=True)

    def _replace(self, member: _Member) -> None:
        member.restarts += 1
        limit = self._config.runtime.max_restarts
        if member.restarts > limit:
            raise RunFailedError(
                f"generator {member.name} died {member.restarts} times, which is more than runtime.max_restarts {limit}"
            )
        self._create(member)

    def _tell_pending(self, member: _Member) -> None:
        """Others go on meanwhile, so one that finds no place is no failure."""
        if member.building is not None and not member.told_pending and time.monotonic() - member.started_at > self._timeout_s:
            member.told_pending = True
            self._event(f"waiting for {self._whereabouts(member)}")

    def _whereabouts(self, member: _Member) -> str:
        need = amounts(requested(self._config.sources[member.source].resources))
        return f"generator {member.name} to start: it needs {need}, and the cluster may have none free"

    def _take_states(self) -> None:
        asked = [(member, member.actor.state.remote()) for member in self._members if member.pid and member.building is None]
        for member, answer in asked:
            try:
                member.state, num_batches = ray.get(answer, timeout=self._timeout_s)
                member.has_delivered |= num_batches > 0
                member.state_taken_at = time.monotonic()
            except (RayActorError, GetTimeoutError):
                continue  # The watcher replaces the dead; the last known state stays.

    def _keep_preparation(self) -> None:
        """Until the first checkpoint, what generators learnt before their first batch would be lost with the driver.

        A state from after that batch is of no use then: a run without a checkpoint begins again with an empty buffer.
        """
        run = self._context.run
        if run.latest_checkpoint() is None:
            self._write(run.preparation, [member for member in self._members if not member.has_delivered])
        else:
            shutil.rmtree(run.preparation, ignore_errors=True)

    def _write(self, folder: Path, members: list[_Member]) -> None:
        for member in members:
            if member.state is not None:
                path = generator_path(folder, member.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, member.state)

    def _reattach(self) -> None:
        """A replay actor that came back knows no streams."""
        attached = self._attached()
        for member in self._members:
            lost = attached is not None and member.name not in attached
            if lost and member.building is None and not self._closed.is_set():
                self._attach(member)

    def _attached(self) -> list[str] | None:
        """Generators whose streams the replay actor pulls; None if it does not answer."""
        try:
            attached: list[str] = ray.get(self._replay.attached.remote(), timeout=PATIENCE_S)
        except (RayError, GetTimeoutError):
            return None
        return attached

    def _event(self, message: str, restart: bool = False) -> None:
        self._log.push.remote("event", 0, {"message": message, "restart": restart})
