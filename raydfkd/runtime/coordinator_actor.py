"""The run's coordinator as an actor: a shell."""

from __future__ import annotations

import ray

from raydfkd.runtime.coordinator import Coordinator
from raydfkd.runtime.prometheus import RunMetrics
from raydfkd.runtime.run_context import RunContext


@ray.remote(num_cpus=0)
class CoordinatorActor(Coordinator):
    """``Coordinator``, which exports its records to Ray's Prometheus endpoint."""

    def __init__(self, context: RunContext) -> None:
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        super().__init__(context.config, RunMetrics(context).take, restarted)
