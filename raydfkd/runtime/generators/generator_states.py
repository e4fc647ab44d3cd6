"""Generators' states: fetched from the actors, kept while a generator is retired, written into checkpoints."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from raydfkd.run_dir import RunDir, generator_path, write_atomically
from raydfkd.runtime.generators.roster import Member


def read_states(folder: Path) -> dict[str, bytes]:
    """The synthesizer states in a checkpoint folder, by generator, both running and retired."""
    return {path.stem: path.read_bytes() for path in sorted((folder / "generators").glob("*.pt"))}


def take_states(members: Iterable[Member], timeout_s: float) -> None:
    """Fetches the state between two batches of every running generator; the others keep their last known state."""
    running = [(member, actor) for member in members if (actor := member.actor) is not None and member.pid]
    asked = [(member, actor.state.remote()) for member, actor in running]
    for member, answer in asked:
        try:
            member.state, member.num_batches = ray.get(answer, timeout=timeout_s)
        except (RayActorError, GetTimeoutError):
            continue  # The watcher replaces dead ones.
        member.has_delivered |= member.num_batches > 0
        member.state_taken_at = time.monotonic()


def write_states(folder: Path, members: Iterable[Member]) -> None:
    for member in members:
        if member.state is not None:
            path = generator_path(folder, member.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, member.state)


def keep_preparation(run: RunDir, members: Iterable[Member]) -> None:
    """Saves the generators' preparation, which would be lost with the driver until the first checkpoint.

    A state after the first batch is useless then: a run without a checkpoint starts again with an empty buffer.
    """
    if run.latest_checkpoint() is None:
        write_states(run.preparation, [member for member in members if not member.has_delivered])
    else:
        shutil.rmtree(run.preparation, ignore_errors=True)
