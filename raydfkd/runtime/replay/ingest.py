"""Pulls many generators' streams with one thread. The puller owns the batches, so they survive a generator's death."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from raydfkd.runtime.failures import Failure
from raydfkd.types import SyntheticBatch

BACKPRESSURE = 2
"""Finished batches that a generator may hold until they are taken; admission limits them further."""
FETCH_TIMEOUT_S = 60.0
"""Timeout for the pixels of a finished batch from another node's store."""


def open_stream(generator: Any, stream: str) -> Any:
    """A generator actor's stream of batches. Never retried: a retried stream would start again from its first batch."""
    options = {"num_returns": "streaming", "_generator_backpressure_num_objects": BACKPRESSURE, "max_task_retries": 0}
    return generator.stream.options(**options).remote(stream)


class Ingest:
    """Multiplexes streams.

    Args:
        insert: called with a stream's name, each of its batches, and the reference that keeps the pixels in the object store.
        ended: called with a stream's name after its last batch, because it was closed or because the generator died (the
            pool's watcher reports that).
        failed: called when a generator raised an error, or a batch could not be inserted: a bug, which would recur.
    """

    def __init__(
        self,
        insert: Callable[[str, SyntheticBatch, Any], None],
        ended: Callable[[str], None],
        failed: Callable[[Failure], None],
    ) -> None:
        self._insert, self._ended, self._failed = insert, ended, failed
        self._streams: dict[str, tuple[str, Any]] = {}
        self._lock = threading.Lock()
        self._arrived = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._thread.start()

    def attach(self, generator_id: str, name: str, generator: Any) -> None:
        """Opens a stream under a unique name."""
        with self._lock:
            self._streams[name] = (generator_id, open_stream(generator, name))
        self._arrived.set()

    def attached(self) -> list[str]:
        """Generators with an open stream."""
        with self._lock:
            return sorted({generator_id for generator_id, _ in self._streams.values()})

    def close(self) -> None:
        self._closed = True
        self._arrived.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                streams = {name: stream for name, (_, stream) in self._streams.items()}
            if not streams:
                self._arrived.wait(0.5)
                self._arrived.clear()
                continue
            ready, _ = ray.wait(list(streams.values()), num_returns=1, timeout=0.1, fetch_local=False)
            for name, stream in streams.items():
                if stream in ready:
                    self._take(name, stream)

    def _take(self, name: str, stream: Any) -> None:
        try:
            ref = next(stream)
            self._insert(name, ray.get(ref, timeout=FETCH_TIMEOUT_S), ref)
        except StopIteration:
            self._detach(name)
        except RayTaskError as error:
            self._fail(name, error)
        except RayError:
            self._detach(name)
        except Exception as error:
            self._fail(name, error)

    def _fail(self, name: str, error: Exception) -> None:
        self._detach(name)
        self._failed(Failure.of(error, f"generator {name.split('/')[0]}"))

    def _detach(self, name: str) -> None:
        with self._lock:
            self._streams.pop(name, None)
        self._ended(name)
