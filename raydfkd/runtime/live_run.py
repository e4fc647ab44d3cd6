"""Access to a live run from another process: its actors are found by their names in the run's manifest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from raydfkd.errors import RunDirError
from raydfkd.ownership import owner_of
from raydfkd.run_dir import RunDir
from raydfkd.runtime.calls import call
from raydfkd.runtime.ray_session import joined

PATIENCE_S = 20.0
POLL_S = 0.3


class LiveRun:
    """The actors of one run, seen from another process. Created by :func:`reach`.

    Args:
        path: the run directory, for messages.
        prefix: prefix of the actors' names.
        namespace: their Ray namespace.
    """

    def __init__(self, path: Any, prefix: str, namespace: str) -> None:
        self._path, self._prefix, self._namespace = path, prefix, namespace

    def status(self) -> dict[str, Any]:
        """The status of the generators, see ``GeneratorPool.status``."""
        return self._ask("pool", "status")

    def scale(self, source: str | None, target: int, patience_s: float) -> dict[str, Any]:
        """Scales a source to ``target`` generators; the status once all are placed or drained, or ``patience_s`` later.

        Raises:
            ConfigError: the run cannot have that many, or has no such source.
        """
        status = self._ask("pool", "scale", source, target, "raydfkd scale")
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and not _is_settled(status, source):
            time.sleep(POLL_S)
            status = self.status()
        return status

    def request_stop(self) -> None:
        """Asks the run to end at the student's next round; returns at once."""
        self._ask("coordinator", "request_stop")

    def _ask(self, role: str, method: str, *arguments: Any) -> Any:
        """The result of an actor's method.

        Raises:
            RunDirError: the actor is gone.
            RaydfkdError: raised by the actor.
        """
        try:
            actor = ray.get_actor(f"{self._prefix}/{role}", namespace=self._namespace)
        except ValueError as error:
            raise _gone(self._path) from error
        return call(lambda: getattr(actor, method).remote(*arguments), PATIENCE_S, f"the {role} actor of {self._path}")


@contextmanager
def reach(run: RunDir, address: str | None = None) -> Iterator[LiveRun]:
    """The live run of a run directory.

    Args:
        address: of its cluster, if this shell needs a different one than the run itself.

    Raises:
        RunDirError: it is not running, or its processes are gone.
        ResourceError: its cluster does not answer.
    """
    manifest = run.manifest()
    state = manifest.get("state")
    if state != "running":
        advice = "read its report" if state == "finished" else "resume it with raydfkd run --resume"
        raise RunDirError(f"the run in {run.path} is {state} and not running: {advice}")
    owner = owner_of(run.path)
    if owner is not None and owner.lives is False:
        raise _gone(run.path)
    prefix, known = manifest.get("actors"), manifest.get("ray")
    if not prefix or not known:
        raise RunDirError(
            f"the run in {run.path} has no actors to reach: it is starting or finishing, or has runtime.runner local; "
            f"try again later, or end it where it runs{'' if owner is None else f', {owner.owner}'} (Ctrl-C or kill)"
        )
    with joined(known, address):
        yield LiveRun(run.path, prefix, known["namespace"])


def _gone(path: Any) -> RunDirError:
    return RunDirError(f"the processes of the run in {path} died without a report: resume it with raydfkd run {path} --resume")


def _is_settled(status: dict[str, Any], source: str | None) -> bool:
    counts = status[source] if source is not None else next(iter(status.values()))
    return counts["running"] == counts["target"] and not counts["draining"]
