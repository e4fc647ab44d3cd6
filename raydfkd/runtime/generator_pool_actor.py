"""The generator pool as an actor: a shell."""

from __future__ import annotations

import threading
from pathlib import Path

import ray

from raydfkd.runtime.generator_pool import GeneratorPool
from raydfkd.runtime.run_context import RunContext


@ray.remote(num_cpus=0, max_concurrency=8)
class GeneratorPoolActor:
    """Owns the generator actors, which die with it; a restarted one starts them again from the newest checkpoint."""

    def __init__(self, context: RunContext) -> None:
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        checkpoint = context.run.latest_checkpoint() if restarted else context.resume_from
        self._pool = GeneratorPool(context, checkpoint)
        if restarted:
            message = "generator pool restarted, and all generators with it from the newest checkpoint"
            context.actor("log").push.remote("event", 0, {"message": message, "restart": True})
            threading.Thread(target=self._pool.start, name="start", daemon=True).start()

    def start(self) -> None:
        self._pool.start()

    def pids(self) -> dict[str, int | None]:
        return self._pool.pids()

    def save(self, folder: Path) -> None:
        self._pool.save(folder)

    def close(self, timeout_s: float) -> None:
        self._pool.close(timeout_s)
