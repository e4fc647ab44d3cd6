"""Records, in every process of a run, what went into the buffer, what came out, and whether the rate limiter was obeyed.

``install`` is a worker process's set-up hook: ``runtime_env={"worker_process_setup_hook": "raydfkd.testing.witness.install"}``.
It costs a worker nothing until that worker imports the buffer or the student's client. ``Witnessed`` reads the records.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

FOLDER = "RAYDFKD_TEST_WITNESS"
"""Environment variable: the folder for the notes."""


def install() -> None:
    """Watches this process, if the environment names a folder."""
    if FOLDER in os.environ:
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Lets modules be found as usual, and patches the watched ones right after they are executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _WATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_watch(module: ModuleType) -> None:
            execute(module)
            _WATCHED[fullname](module)

        spec.loader.exec_module = execute_and_watch  # type: ignore[method-assign]
        return spec


def _note(kind: str, **values: Any) -> None:
    with open(Path(os.environ[FOLDER]) / f"{kind}-{os.getpid()}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def _checksums(images: np.ndarray) -> list[int]:
    return [zlib.crc32(image.tobytes()) for image in images]


def _watch_buffer(module: ModuleType) -> None:
    """Keys and pixels of every insert; a restored buffer starts a new epoch with the keys that it still holds."""
    buffer = module.ReplayBuffer
    insert, load = buffer.insert, buffer.load_state_dict

    def watched_insert(self: Any, batch: Any, payload: Any, *judge: Any) -> None:
        before = self.num_shards
        insert(self, batch, payload, *judge)
        (shard,) = self.shards_after(before - 1)
        _note("buffer", epoch=self.identity, keys=shard.keys.tolist(), images=_checksums(batch.images))

    def watched_load(self: Any, *arguments: Any) -> None:
        load(self, *arguments)
        held = [key for view in self.shards_after(-1) for key in view.keys[view.slots >= 0].tolist()]
        _note("buffer", epoch=self.identity, restored=held)

    buffer.insert, buffer.load_state_dict = watched_insert, watched_load


def _watch_limiter(module: ModuleType) -> None:
    """Every draw and insert that the limiter's bound did not allow.

    A student that returns to its checkpoint takes its draws back, so inserts are compared with the most ever drawn.
    """
    limiter = module.RateLimiter
    insert, sample = limiter.record_insert, limiter.record_sample
    most: dict[int, int] = {}

    def watched_insert(self: Any, n: int) -> None:
        drawn = most[id(self)] = max(most.get(id(self), 0), self._samples)
        allowed = self._rule.most_inserts(drawn)
        insert(self, n)
        _note("limiter", inserts=self._inserts, samples=self._samples, kept=bool(self._inserts <= allowed))

    def watched_sample(self: Any, n: int) -> None:
        kept = self._samples + n <= self._rule.most_samples(self._inserts)
        sample(self, n)
        most[id(self)] = max(most.get(id(self), 0), self._samples)
        _note("limiter", inserts=self._inserts, samples=self._samples, kept=bool(kept or n == 0))

    limiter.record_insert, limiter.record_sample = watched_insert, watched_sample


def _watch_client(module: ModuleType) -> None:
    """Keys and pixels of every batch that a student worker trains on."""
    client = module.ReplayClient
    take = client.next

    def watched_next(self: Any, step: int, version: int) -> Any:
        batch = take(self, step, version)
        _note("student", step=step, keys=batch.keys.tolist(), images=_checksums(batch.images.cpu().numpy()))
        return batch

    client.next = watched_next


_WATCHED: dict[str, Callable[[ModuleType], None]] = {
    "raydfkd.replay.buffer": _watch_buffer,
    "raydfkd.replay.rate_limiter": _watch_limiter,
    "raydfkd.runtime.replay.replay_client": _watch_client,
}


class Witnessed:
    """What the processes of a run recorded.

    Attributes:
        inserted: (key, image) of everything inserted into a buffer, with its epoch.
        seen: (key, image) of everything that students trained on.
        steps: the steps for which batches were taken, by process.
        num_epochs: number of successive buffers.
    """

    def __init__(self, folder: Path) -> None:
        self._buffer, self._limiter, self._student = (_read(folder, kind) for kind in ("buffer", "limiter", "student"))
        self.inserted = {pair for note in self._buffer if "images" in note for pair in _pairs(note)}
        self.seen = [pair for note in self._student for pair in _pairs(note)]
        self.steps = [note["step"] for note in self._student]
        self.num_epochs = len({note["epoch"] for note in self._buffer})

    def broken(self) -> list[str]:
        """Violations of: students saw only inserted images; keys are unique; the limiter's bound was kept; the number of
        inserts counted equals the number made."""
        found = []
        strange = set(self.seen) - self.inserted
        if strange:
            found.append(f"{len(strange)} images that students saw were never inserted")
        found += [f"epoch {epoch} gave a key twice" for epoch in self._epochs_with_repeated_keys()]
        over = [note for note in self._limiter if not note["kept"]]
        if over:
            found.append(f"the limiter's bound was passed {len(over)} times, first at {over[0]}")
        if not self.seen or not self._limiter:
            found.append("nothing was witnessed")
        return found

    def _epochs_with_repeated_keys(self) -> list[str]:
        keys: dict[str, list[int]] = {}
        for note in self._buffer:
            keys.setdefault(note["epoch"], []).extend(note["restored"] if "restored" in note else note["keys"])
        return [epoch for epoch, known in keys.items() if len(set(known)) != len(known)]


def _read(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Records of all processes; the incomplete last line of a killed one is left out."""
    lines = [line for path in sorted(folder.glob(f"{kind}-*.jsonl")) for line in path.read_text().splitlines(True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _pairs(note: dict[str, Any]) -> list[tuple[int, int]]:
    return list(zip(note["keys"], note["images"], strict=True))
