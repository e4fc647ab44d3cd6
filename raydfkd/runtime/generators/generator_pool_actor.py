"""The generator pool as an actor: a shell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from raydfkd.runtime.generators.generator_pool import GeneratorPool
from raydfkd.runtime.run_context import RunContext

RECALL_TIMEOUT_S = 30.0


@ray.remote(num_cpus=0, max_concurrency=8)
class GeneratorPoolActor:
    """Owns the generator actors, which die with it; a restarted pool starts them again from the newest checkpoint, in the
    number last wanted."""

    def __init__(self, context: RunContext) -> None:
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        checkpoint = context.run.latest_checkpoint() if restarted else context.resume_from
        targets = ray.get(context.actor("coordinator").targets.remote(), timeout=RECALL_TIMEOUT_S) if restarted else None
        self._pool = GeneratorPool(context, checkpoint, targets)
        if restarted:
            message = "generator pool restarted, and all generators with it from the newest checkpoint"
            context.actor("coordinator").push.remote("event", None, {"message": message, "restart": True})
            self._pool.watch()

    def start(self) -> None:
        self._pool.start()

    def scale(self, source: str | None, target: int, why: str = "") -> dict[str, Any]:
        return self._pool.scale(source, target, why)

    def status(self) -> dict[str, Any]:
        return self._pool.status()

    def pids(self) -> dict[str, int | None]:
        return self._pool.pids()

    def save(self, folder: Path) -> None:
        self._pool.save(folder)

    def keep_preparation(self) -> None:
        self._pool.keep_preparation()

    def close(self, timeout_s: float) -> None:
        self._pool.close(timeout_s)
