"""The pool of generator actors: starts them, replaces dead ones from their last state, and scales their number during the run.

``scale`` only sets how many are wanted. The watcher's thread does the rest, one step per check: it starts missing generators
and drains surplus ones (it never kills first: the current batch is delivered, the stream ends, the state is taken, and only
then the process ends). A generator that cannot be placed stays pending, which an autoscaler acts on; no explicit resource
request is made to the autoscaler, because such requests are cluster-wide and would replace another run's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError, RayTaskError

from raydfkd.errors import RunFailedError, WaitTimeoutError
from raydfkd.runtime.calls import call
from raydfkd.runtime.failures import Failure
from raydfkd.runtime.generators.autoscaler import Autoscaler
from raydfkd.runtime.generators.generator_actor import GeneratorActor
from raydfkd.runtime.generators.generator_states import keep_preparation, read_states, take_states, write_states
from raydfkd.runtime.generators.pool_news import PoolNews
from raydfkd.runtime.generators.roster import Member, Roster
from raydfkd.runtime.generators.scaling import check_scale, scale_message
from raydfkd.runtime.preflight import requested
from raydfkd.runtime.run_context import RunContext

WATCH_PERIOD_S = 0.5
PATIENCE_S = 5.0
NODE_DIED = "its node has died"
"""Part of Ray's message for the death of an actor, the only sign that its node died."""


class GeneratorPool:
    """Owns the generator actors of a run.

    Args:
        context: the run.
        restore_from: a checkpoint folder with generator states, None to begin.
        targets: generators wanted by source, if different from the experiment's.
    """

    def __init__(self, context: RunContext, restore_from: Path | None, targets: Mapping[str, int] | None = None) -> None:
        self._context, self._config = context, context.config
        self._timeout_s = context.config.runtime.wait_timeout_s
        self._replay, self._coordinator = context.actor("replay"), context.actor("coordinator")
        wanted = {source: settings.num_generators for source, settings in self._config.sources.items()}
        states = read_states(context.run.preparation if restore_from is None else restore_from)
        self._roster = Roster({**wanted, **(targets or {})}, states)
        self._news = PoolNews(self._config, self._roster, self._coordinator)
        self._autoscaler = Autoscaler(self._config, self._coordinator, self.scale)
        self._closed, self._woken = threading.Event(), threading.Event()
        self._watcher = threading.Thread(target=self._guarded, args=(self._watch,), name="watcher", daemon=True)

    def start(self) -> None:
        """Starts all generators and the watcher. Errors are reported to the run's coordinator as the run's failure."""
        self._guarded(self._start_all)
        self.watch()

    def watch(self) -> None:
        """Starts the watcher only, which then starts the generators one by one as resources become free."""
        self._watcher.start()

    def scale(self, source: str | None, target: int, why: str = "") -> dict[str, Any]:
        """Sets the number of generators wanted of a source; returns the current status at once.

        Args:
            source: its name; None if there is only one.
            why: for the event line.

        Raises:
            ConfigError: this run cannot have that many, or has no such source.
        """
        before = self._roster.targets()
        source = check_scale(self._config, before, source, target)
        joining, leaving = self._roster.set_target(source, target)
        if joining or leaving:
            continued = sum(member.state is not None for member in joining)
            self._news.event(scale_message(source, before[source], target, continued, why))
            self._coordinator.note_targets.remote(self._roster.targets())
            self._autoscaler.note_change(source)
            self._woken.set()
        return self.status()

    def status(self) -> dict[str, Any]:
        """By source: ``target``, the counts by phase, and ``generators``, see ``Roster.listing``."""
        return {
            source: {**self._roster.counts(source), "generators": self._roster.listing(source)}
            for source in self._config.sources
        }

    def pids(self) -> dict[str, int | None]:
        """Process id of every generator; None for one that is being started."""
        return {member.name: member.pid for member in self._roster.members() if member.phase is not None}

    def save(self, folder: Path) -> None:
        """Writes every generator's state into a checkpoint folder, including retired ones."""
        take_states(self._roster.members(), self._timeout_s)
        write_states(folder, self._roster.members())

    def keep_preparation(self) -> None:
        """Saves the generators' preparation before their first batch, unless a checkpoint has it."""
        take_states(self._roster.members(), self._timeout_s)
        keep_preparation(self._context.run, self._roster.members())

    def close(self, timeout_s: float) -> None:
        """Lets the generators finish their current batch, then ends them."""
        self._closed.set()
        self._woken.set()
        if self._watcher.is_alive():
            self._watcher.join(PATIENCE_S)
        actors = [member.actor for member in self._roster.members() if member.actor is not None]
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
        self._coordinator.fail.remote(failure)
        self._replay.abort.remote(failure.sentence)

    def _start_all(self) -> None:
        wanted = [member for member in self._roster.members() if member.wanted]
        for member in wanted:
            self._create(member)
        for member in wanted:
            try:
                self._finish_start(member, self._timeout_s)
            except GetTimeoutError as error:
                raise WaitTimeoutError(f"waited {self._timeout_s:.0f} s for {self._news.whereabouts(member)}") from error
            except RayActorError:
                continue  # The watcher will find it dead and replace it.
        self._news.tell_changes()

    def _create(self, member: Member) -> None:
        need = requested(self._config.sources[member.source].resources)
        options = {"num_cpus": need.pop("CPU"), "num_gpus": need.pop("GPU", 0), "resources": need}
        if not self._context.grouped:
            # A generator does not inherit a placement group that this actor might have been started in.
            options["scheduling_strategy"] = "DEFAULT"
        turns = self._config.generators
        place = (member.source, member.index)
        # Turns matter only in lockstep, where no generator is added.
        turn = turns.index(place) if place in turns else len(turns)
        actor_class: Any = GeneratorActor
        actor = actor_class.options(**options).remote(self._context, member.source, member.index, turn)
        member.pid, member.placed, member.building = None, actor.alive.remote(), actor.build.remote(member.state)
        member.started_at, member.told_pending, member.draining_since = time.monotonic(), False, None
        member.actor = actor

    def _finish_start(self, member: Member, timeout_s: float) -> None:
        """Attaches a generator once its networks are built.

        Raises:
            GetTimeoutError: they are not built in time.
            RayActorError: it died.
            RayTaskError: they cannot be built.
        """
        member.pid = ray.get(member.building, timeout=timeout_s)
        member.placed = member.building = None
        self._attach(member)

    def _attach(self, member: Member) -> None:
        call(lambda: self._replay.attach.remote(member.name, member.actor), self._timeout_s, "the replay actor")

    def _watch(self) -> None:
        taken = time.monotonic()
        while not self._closed.is_set():
            self._woken.wait(WATCH_PERIOD_S)
            self._woken.clear()
            self._tend()
            if time.monotonic() - taken > self._config.runtime.snapshot_period_s and not self._closed.is_set():
                self.keep_preparation()
                taken = time.monotonic()

    def _tend(self) -> None:
        """Moves the pool one step towards the wanted numbers."""
        attached = self._attached()
        for member in self._roster.members():
            if self._closed.is_set():
                return
            if member.actor is None:
                if member.wanted:
                    self._create(member)
            elif not member.wanted or member.draining_since is not None:
                self._retire(member, attached)
            elif member.building is not None:
                self._see_to_start(member)
            else:
                self._see_to_life(member, attached)
        self._news.tell_pending()
        self._autoscaler.look(self._roster)
        self._news.tell_changes()

    def _retire(self, member: Member, attached: list[str] | None) -> None:
        now = time.monotonic()
        if member.building is not None:
            self._end(member)  # It has started no batch, so there is nothing to drain.
        elif member.draining_since is None:
            member.actor.drain.remote()
            member.draining_since = now
        elif attached is not None and member.name not in attached:
            take_states([member], PATIENCE_S)
            self._news.event(f"generator {member.name} has ended after {member.num_batches} batches; its state is kept")
            self._end(member)
        elif now - member.draining_since > self._timeout_s:
            self._news.event(
                f"generator {member.name} did not finish its batch in {self._timeout_s:.0f} s and is ended without it"
            )
            self._end(member)

    def _end(self, member: Member) -> None:
        actor = member.actor
        member.forget_actor()
        ray.kill(actor)
        self._woken.set()  # It may be wanted again by now, or its resources by a pending one.

    def _see_to_start(self, member: Member) -> None:
        if member.placed is not None and ray.wait([member.placed], timeout=0)[0]:
            member.placed = None
        try:
            self._finish_start(member, 0)
        except GetTimeoutError:
            return
        except RayActorError as error:
            self._replace(member, error)
            return
        except RayTaskError as error:
            if not member.added:
                raise
            self._give_up(member, Failure.of(error, f"generator {member.name}"))
            return
        if member.replaced is not None:
            state_age_s = time.monotonic() - member.state_taken_at
            age = "its initial state" if member.state is None else f"its state of {state_age_s:.0f} s ago"
            message = f"generator {member.name} {member.replaced} and was restarted from {age}; its delivered images stay"
            self._news.event(message, restart=True)
            member.replaced = None

    def _see_to_life(self, member: Member, attached: list[str] | None) -> None:
        try:
            ray.get(member.actor.alive.remote(), timeout=PATIENCE_S)
        except (GetTimeoutError, ActorUnavailableError):
            return  # A broken connection is not a death: Ray reports within seconds which it was.
        except RayActorError as error:
            self._replace(member, error)
            return
        if attached is not None and member.name not in attached:
            self._attach(member)  # A restarted replay actor has no streams.

    def _replace(self, member: Member, death: RayActorError) -> None:
        member.restarts += 1
        limit = self._config.runtime.max_restarts
        if member.restarts > limit:
            raise RunFailedError(
                f"generator {member.name} died {member.restarts} times, which is more than runtime.max_restarts {limit}"
            )
        self._create(member)
        member.replaced = "died with its node" if NODE_DIED in str(death) else "died"

    def _give_up(self, member: Member, failure: Failure) -> None:
        """A failed start of an added generator does not end the run."""
        self._roster.drop(member)
        self._end(member)
        self._coordinator.note_targets.remote(self._roster.targets())
        self._news.event(f"{failure.sentence}; it was an additional one, so the run continues without it")

    def _attached(self) -> list[str] | None:
        """Generators with a stream that the replay actor pulls; None if it does not answer."""
        try:
            attached: list[str] = ray.get(self._replay.attached.remote(), timeout=PATIENCE_S)
        except (RayError, GetTimeoutError):
            return None
        return attached
