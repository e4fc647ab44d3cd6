"""Joining or starting Ray, quietly."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray._private.worker as ray_worker

from raydfkd.errors import ResourceError
from raydfkd.pipeline.config import ExperimentConfig

logger = logging.getLogger(__name__)

NAMESPACE = "raydfkd"

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}

ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
"""For the workers of a local Ray: glibc keeps freed memory. Its default unmaps a step's activations and faults them in again,
which costs a student step on a CPU about a tenth. Other C libraries ignore the names."""


@contextmanager
def session(config: ExperimentConfig, dashboard: bool = False) -> Iterator[bool]:
    """Ray for the length of a run: the one this process has joined already, the cluster of ``runtime.address``, or a local one.

    ``dashboard`` starts a local Ray's HTTP server too, which Ray Train needs to give back what a killed group held.

    Yields whether all that is left running in it ends with this context.

    Raises:
        ResourceError: there is no cluster at that address.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.ERROR)
    _keep_raylet_off_the_terminal()
    if ray.is_initialized():
        yield False
        return
    address = config.runtime.address
    if address is None:
        # A local cluster serves this process alone, so it needs no token.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        for name, value in ALLOCATOR.items():
            os.environ.setdefault(name, value)
    try:
        ray.init(
            address="local" if address is None else address,
            namespace=NAMESPACE,
            num_cpus=None if address is not None else _whole(config.runtime.num_cpus),
            include_dashboard=dashboard if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        raise ResourceError(
            f"no Ray cluster answers at {address!r}: check runtime.address, or leave it out for a local Ray"
        ) from error
    try:
        yield True
    finally:
        ray.shutdown()


def _keep_raylet_off_the_terminal() -> None:
    """Sends what Ray's daemon reports ("A worker died ...") to the log at level INFO.

    ``log_to_driver=False`` does not cover it, and it would break into a live table; what matters of it a run tells itself.
    The function is Ray's own and private: where it is missing, its lines are merely seen again.
    """

    def to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
        logger.info("%s: %s", data.get("pid"), " ".join(map(str, data.get("lines", []))))

    if hasattr(ray_worker, "print_to_stdstream"):
        ray_worker.print_to_stdstream = to_log


def _whole(num_cpus: float | None) -> int | None:
    return None if num_cpus is None else math.ceil(num_cpus)


def assigned_device() -> str:
    """What Ray gave this actor: "cuda:0" (the first of its visible GPUs) or "cpu"."""
    return "cuda:0" if ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu"
