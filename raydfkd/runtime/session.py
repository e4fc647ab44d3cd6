"""Joining or starting Ray, and refusing beforehand what it could never place."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from raydfkd.errors import ResourceError
from raydfkd.pipeline.config import ExperimentConfig
from raydfkd.synthesis.config import ResourcesConfig

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


@contextmanager
def session(config: ExperimentConfig) -> Iterator[None]:
    """Ray for the length of a run: the one this process has joined already, the cluster of ``runtime.address``, or a local one.

    Raises:
        ResourceError: there is no cluster at that address.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    address = config.runtime.address
    if address is None:
        # A local cluster serves this process alone, so it needs no token.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    try:
        ray.init(
            address="local" if address is None else address,
            namespace=NAMESPACE,
            num_cpus=None if address is not None else _whole(config.runtime.num_cpus),
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        raise ResourceError(
            f"no Ray cluster answers at {address!r}: check runtime.address, or leave it out for a local Ray"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _whole(num_cpus: float | None) -> int | None:
    return None if num_cpus is None else math.ceil(num_cpus)


def assigned_device() -> str:
    """What Ray gave this actor: "cuda:0" (the first of its visible GPUs) or "cpu"."""
    return "cuda:0" if ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu"


def demands(config: ExperimentConfig) -> list[tuple[str, dict[str, float]]]:
    """(name, resources) of every actor that the run places."""
    student = config.student
    found = [
        (f"generator {source}-{index}", requested(config.sources[source].resources)) for source, index in config.generators
    ]
    return found + [(f"student worker {rank}", requested(student.resources)) for rank in range(student.num_workers)]


def requested(resources: ResourcesConfig) -> dict[str, float]:
    """In Ray's names."""
    return {"CPU": resources.num_cpus, **({"GPU": resources.num_gpus} if resources.num_gpus else {}), **resources.custom}


def preflight(config: ExperimentConfig) -> None:
    """Refuses a run that the cluster as it is could not place, before anything starts.

    Actors are placed largest first on the nodes that have room; what other jobs hold now counts as free, because they end.

    Raises:
        ResourceError: with need, have, and what to change.
    """
    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    unplaced = None
    for name, need in sorted(demands(config), key=lambda demand: -sum(demand[1].values())):
        node = next((n for n in nodes if all(n.get(kind, 0) + 1e-9 >= amount for kind, amount in need.items())), None)
        if node is None:
            unplaced = (name, need)
            break
        for kind, amount in need.items():
            node[kind] -= amount
    if unplaced is None:
        return
    total: dict[str, float] = {}
    for _, need in demands(config):
        for kind, amount in need.items():
            total[kind] = total.get(kind, 0) + amount
    have = {kind: ray.cluster_resources().get(kind, 0) for kind in total}
    raise ResourceError(
        f"{unplaced[0]} cannot be placed: all actors need {_amounts(total)}, the cluster has {_amounts(have)} "
        "(fractions of one actor cannot span nodes): lower sources.*.num_generators, students.*.num_workers or their "
        "resources.num_cpus / num_gpus, or add nodes"
    )


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {kind}" for kind, amount in sorted(resources.items()))
