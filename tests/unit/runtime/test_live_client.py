"""Reaching a live run's actors, with plain objects in their place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from pool_rig import FakeActor, get

from raydfkd.errors import RunDirError
from raydfkd.run_dir import RunDir
from raydfkd.runtime import live_run as live
from raydfkd.runtime.live_run import reach

WHERE = {"address": "127.0.0.1:6379", "namespace": "raydfkd", "auth_mode": None}


def counts(target: int, running: int, draining: int = 0) -> dict[str, Any]:
    return {"inversion": {"target": target, "running": running, "draining": draining}}


class Actors(FakeActor):
    """The pool and the coordinator of a run."""

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
        if name not in ("raydfkd-1/pool", "raydfkd-1/coordinator"):
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


def test_a_stop_is_asked_of_the_coordinator(actors: Actors, tmp_path: Path) -> None:
    with reach(running(tmp_path)) as found:
        found.request_stop()
    assert actors.stops == 1


def test_actors_that_are_gone(actors: Actors, tmp_path: Path) -> None:
    run = running(tmp_path, prefix="raydfkd-2")
    with (
        reach(run) as found,
        pytest.raises(RunDirError, match=r"died without a report: resume it with raydfkd run .* --resume$"),
    ):
        found.status()
