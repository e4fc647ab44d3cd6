"""Pulls many generators' streams with one thread. The puller owns what it pulls, so a dead generator takes nothing along."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from raydfkd.types import SyntheticBatch

BACKPRESSURE = 2
"""Batches that a generator may have finished before they are taken; admission bounds them further."""


def open_stream(generator: Any) -> Any:
    """A generator actor's stream of batches. Never retried: a retried stream would be made again from its first batch."""
    options = {"num_returns": "streaming", "_generator_backpressure_num_objects": BACKPRESSURE, "max_task_retries": 0}
    return generator.stream.options(**options).remote()


class Ingest:
    """Multiplexes streams.

    Args:
        insert: called with each batch and the reference that keeps its pixels in the object store.
        lost: called with a generator's id and error when its stream breaks off.
    """

    def __init__(self, insert: Callable[[SyntheticBatch, Any], None], lost: Callable[[str, Exception], None]) -> None:
        self._insert = insert
        self._lost = lost
        self._streams: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._arrived = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._thread.start()

    def attach(self, generator_id: str, generator: Any) -> None:
        with self._lock:
            self._streams[generator_id] = open_stream(generator)
        self._arrived.set()

    def attached(self) -> list[str]:
        with self._lock:
            return sorted(self._streams)

    def close(self) -> None:
        self._closed = True
        self._arrived.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                streams = dict(self._streams)
            if not streams:
                self._arrived.wait(0.5)
                self._arrived.clear()
                continue
            ready, _ = ray.wait(list(streams.values()), num_returns=1, timeout=0.1, fetch_local=False)
            for generator_id, stream in streams.items():
                if stream in ready:
                    self._take(generator_id, stream)

    def _take(self, generator_id: str, stream: Any) -> None:
        try:
            ref = next(stream)
            batch = ray.get(ref)
        except StopIteration:
            self._detach(generator_id, stream)
            return
        except RayError as error:
            self._detach(generator_id, stream)
            self._lost(generator_id, error)
            return
        self._insert(batch, ref)

    def _detach(self, generator_id: str, stream: Any) -> None:
        with self._lock:
            if self._streams.get(generator_id) is stream:
                del self._streams[generator_id]
