"""Reaching a live run's actors, with plain objects in their place; and what its log keeps for others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from pool_rig import FakeActor, get
from replay_rig import config

from raydfkd.errors import RunDirError
from raydfkd.run_dir import RunDir
from raydfkd.runtime import coordinator_actor as log_actor
from raydfkd.runtime import live_run as live
from raydfkd.runtime.generators.autoscale_policy import Waits
from raydfkd.runtime.live_run import reach
from raydfkd.synthesis.method import AutoscaleConfig

WHERE = {"address": "127.0.0.1:6379", "namespace": "raydfkd", "auth_mode": None}


def counts(target: int, running: int, draining: int = 0) -> dict[str, Any]:
    return {"inversion": {"target": target, "running": running, "draining": draining}}


class Actors(FakeActor):
    """The pool and the log of a run."""

    def __init__(self) -> None:
        self.told = [counts(4, 1), counts(4, 2), counts(4, 4)]
        self.scaled: list[Any] = []
        self.stops = 0

    def do_scale(self, *arguments: Any) -> Any:
        self.scaled.append(arguments)
        return counts(4, 1)

    def do_status(self) -> Any:
        now = self.told.pop(0) if len(self.told) > 1 else self.told[0]
        return lambda: now

    def do_request_stop(self) -> Any:
        self.stops += 1
        return lambda: None


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> Actors:
    made = Actors()

    @contextlib.contextmanager
    def joined(known: dict[str, Any], address: str | None) -> Iterator[None]:
        assert known == WHERE
        yield

    def find(name: str, namespace: str) -> Actors:
        assert namespace == "raydfkd"
        if name not in ("raydfkd-1/pool", "raydfkd-1/log"):
            raise ValueError(f"no actor {name}")
        return made

    monkeypatch.setattr(live, "joined", joined)
    monkeypatch.setattr(live, "POLL_S", 0.0)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "get_actor", find)
    return made


def running(path: Path, prefix: str = "raydfkd-1") -> RunDir:
    run = RunDir.create(path / "run")
    run.update_manifest(state="running", actors=prefix, ray=WHERE)
    return run


def test_scaling_waits_until_all_run_or_have_ended(actors: Actors, tmp_path: Path) -> None:
    with reach(running(tmp_path)) as found:
        assert found.scale(None, 4, 60.0) == counts(4, 4)
        assert actors.scaled == [(None, 4, "raydfkd scale")]
        actors.told = [counts(1, 1, 3), counts(1, 1)]
        assert found.scale("inversion", 1, 60.0) == counts(1, 1)


def test_scaling_waits_no_longer_than_told(actors: Actors, tmp_path: Path) -> None:
    actors.told = [counts(4, 2)]
    with reach(running(tmp_path)) as found:
        assert found.scale(None, 4, 0.05) == counts(4, 2)
        assert found.scale(None, 4, 0.0) == counts(4, 1), "the first answer"


def test_a_stop_is_asked_of_the_log(actors: Actors, tmp_path: Path) -> None:
    with reach(running(tmp_path)) as found:
        found.request_stop()
    assert actors.stops == 1


def test_actors_that_are_gone(actors: Actors, tmp_path: Path) -> None:
    run = running(tmp_path, prefix="raydfkd-2")
    with reach(run) as found, pytest.raises(RunDirError, match=r"are gone without a word: go on with raydfkd run .* --resume$"):
        found.status()


class Log:
    """The class that the log actor is, without its actor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **source: Any) -> None:
        settings = config({"mode": "decoupled"})
        changed = settings.sources["inversion"].model_copy(update=source)
        context = SimpleNamespace(config=settings.model_copy(update={"sources": {"inversion": changed}}))
        self.exported: list[Any] = []
        monkeypatch.setattr(log_actor, "RunMetrics", lambda context: SimpleNamespace(take=lambda *a: self.exported.append(a)))
        alive = SimpleNamespace(was_current_actor_reconstructed=False)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: alive)
        plain: Any = log_actor.LogActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]
        self.actor = plain(context)


def test_a_record_without_a_step_gets_the_newest_and_all_are_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch)
    log.actor.push("throughput", 40, {"images_distilled_since": 8})
    log.actor.push("synthesis", 36, {"generator_id": "inversion-0", "seconds": 1.0})
    log.actor.push("generators", None, {"source": "inversion"})
    records, failure = log.actor.drain()
    assert [record["step"] for record in records] == [40, 36, 40]
    assert failure is None
    assert [(kind, step) for kind, step, _ in log.exported] == [("throughput", 40), ("synthesis", 36), ("generators", 40)]


def test_waits_are_metered_where_a_source_scales_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(log_actor.time, "monotonic", lambda: now[0])
    log = Log(monkeypatch, autoscale=AutoscaleConfig(max=3, window_s=10))
    for _ in range(3):
        now[0] += 5
        log.actor.push("throughput", 1, {"student_wait_data_s": 1.0})
        log.actor.push("synthesis", 1, {"generator_id": "inversion-0", "seconds": 3.0, "generator_wait_limiter_s": 1.0})
    assert log.actor.waits("inversion", 10.0, 100.0) == Waits(0.2, 0.25)
    assert log.actor.waits("inversion", 10.0, 1.0) == Waits(None, 0.25), "nothing from before the last change"


def test_the_log_remembers_a_stop_and_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch).actor
    assert (log.stopping(), log.targets()) == (False, {})
    log.request_stop()
    log.note_targets({"inversion": 3})
    assert (log.stopping(), log.targets()) == (True, {"inversion": 3})
