"""A generator pool whose Ray is a fake: actors are plain objects, a cluster has so many places, and tests say what happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, GetTimeoutError
from replay_rig import config

from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.run_dir import RunDir
from raydfkd.runtime.generators import generator_pool, pool_news
from raydfkd.runtime.generators.autoscale_policy import Waits
from raydfkd.runtime.generators.generator_pool import GeneratorPool
from raydfkd.runtime.run_context import RunContext

LATER = object()
"""An answer that has not come yet."""


class Ref:
    """What a remote call returns."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer


def get(ref: Ref, timeout: float | None = None) -> Any:
    answer = ref.answer()
    if answer is LATER:
        raise GetTimeoutError("not yet")
    if isinstance(answer, Exception):
        raise answer
    return answer


def wait(refs: list[Ref], timeout: float | None = None) -> tuple[list[Ref], list[Ref]]:
    ready = [ref for ref in refs if ref.answer() is not LATER]
    return ready, [ref for ref in refs if ref not in ready]


class Remote:
    """A method of an actor: it is carried out at once, and what it returns is looked at when it is asked for."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method

    def remote(self, *arguments: Any) -> Ref:
        result = self._method(*arguments)
        return Ref(result if callable(result) else lambda: result)


class FakeActor:
    """Methods named ``do_NAME`` are called as ``actor.NAME.remote()``."""

    def __getattr__(self, name: str) -> Remote:
        return Remote(object.__getattribute__(self, f"do_{name}"))


class FakeGenerator(FakeActor):
    """``busy``: a batch is in hand. ``refusal``: what its networks' building raises. ``death``: why it died."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.drained = self.dead = self.busy = False
        self.death: Exception = ActorDiedError()
        self.refusal = cluster.refusal
        self.began_with: bytes | None = None
        self.made = 0

    def _answer(self, answer: Any) -> Callable[[], Any]:
        def now() -> Any:
            if self.dead:
                return self.death
            return answer if self in self.cluster.placed else LATER

        return now

    def do_alive(self) -> Any:
        return self._answer(None)

    def do_build(self, state: bytes | None) -> Any:
        self.began_with = state
        return self._answer(100 + self.cluster.created.index(self) if self.refusal is None else self.refusal)

    def do_drain(self) -> None:
        self.drained = True

    def do_state(self) -> Any:
        return self._answer((f"{self.name} learnt {self.made}".encode(), self.made))


class Cluster(FakeActor):
    """So many places, and the run's other actors: replay (streams) and log (records)."""

    def __init__(self, num_places: int) -> None:
        self.num_places = num_places
        self.created: list[FakeGenerator] = []
        self.killed: list[FakeGenerator] = []
        self.streams: dict[str, FakeGenerator] = {}
        self.records: list[dict[str, Any]] = []
        self.targets: dict[str, int] = {}
        self.failures: list[Any] = []
        self.refusal: Exception | None = None
        self.measured = Waits(None, None)

    @property
    def placed(self) -> list[FakeGenerator]:
        return [actor for actor in self.created if actor not in self.killed and not actor.dead][: self.num_places]

    def has_room(self, need: dict[str, float]) -> bool:
        return len([actor for actor in self.created if actor not in self.killed]) < self.num_places

    def newest(self, name: str) -> FakeGenerator:
        return [actor for actor in self.created if actor.name == name][-1]

    def events(self) -> list[str]:
        return [record["message"] for record in self.records if record["kind"] == "event"]

    def do_attach(self, name: str, actor: FakeGenerator) -> None:
        self.streams[name] = actor

    def do_attached(self) -> list[str]:
        for name, actor in list(self.streams.items()):
            if actor.dead or (actor.drained and not actor.busy):
                del self.streams[name]
        return sorted(self.streams)

    def do_push(self, kind: str, step: int | None, values: dict[str, Any]) -> None:
        self.records.append({"kind": kind, "step": step, **values})

    def do_note_targets(self, targets: dict[str, int]) -> None:
        self.targets = targets

    def do_waits(self, source: str, window_s: float, not_before_s: float) -> Waits:
        return self.measured

    def do_fail(self, failure: Any) -> None:
        self.failures.append(failure)

    def do_abort(self, message: str) -> None: ...


def fake_cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """One of two places, in the room of Ray."""
    made = Cluster(2)

    class Actors:
        @staticmethod
        def options(**_: Any) -> Any:
            return Actors

        @staticmethod
        def remote(context: Any, source: str, index: int, turn: int) -> FakeGenerator:
            made.created.append(FakeGenerator(made, f"{source}-{index}"))
            return made.created[-1]

    for name, function in (("get", get), ("wait", wait), ("kill", made.killed.append)):
        monkeypatch.setattr(ray, name, function)
    monkeypatch.setattr(generator_pool, "GeneratorActor", Actors)
    monkeypatch.setattr(pool_news, "has_room", made.has_room)
    monkeypatch.setattr(pool_news, "PENDING_TOLD_S", 0.0)
    return made


def experiment(num_generators: int = 1, **source: Any) -> ExperimentConfig:
    settings = config({"mode": "decoupled"}, wait_timeout_s=60)
    changed = settings.sources["inversion"].model_copy(update={"num_generators": num_generators, **source})
    return settings.model_copy(update={"sources": {"inversion": changed}})


@dataclass(frozen=True)
class AmongActors(RunContext):
    """The real context, but every role is played by the rig's cluster."""

    cluster: Any = None

    def actor(self, role: str) -> Any:
        return self.cluster


def pool_of(cluster: Cluster, path: Path, settings: ExperimentConfig, **given: Any) -> GeneratorPool:
    """Started; the watch is the test's, by ``tend``."""
    run = RunDir.create(path / "run") if not (path / "run").exists() else RunDir(path / "run")
    context = AmongActors(settings, run.path, cluster=cluster)
    pool = GeneratorPool(context, given.pop("restore_from", None), **given)
    pool._start_all()
    return pool


def tend(pool: GeneratorPool, times: int = 3) -> dict[str, str]:
    """Lets the watcher look so often; the generators' states."""
    for _ in range(times):
        pool._tend()
    return {generator["name"]: generator["state"] for generator in pool.status()["inversion"]["generators"]}
