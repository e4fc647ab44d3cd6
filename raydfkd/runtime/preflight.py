"""Rejects in advance what the cluster could never place."""

from __future__ import annotations

from dataclasses import dataclass

import ray
from ray._private.state import available_resources_per_node

from raydfkd.errors import ResourceError
from raydfkd.pipeline.experiment.config import ExperimentConfig, generator_id
from raydfkd.pipeline.experiment.runtime_config import RuntimeConfig
from raydfkd.resources import ResourcesConfig, gpu_share, with_gpus
from raydfkd.runtime.ray_session import session

ROUNDING = 1e-6


def requested(resources: ResourcesConfig) -> dict[str, float]:
    """Under Ray's names."""
    return {"CPU": resources.num_cpus, **({"GPU": resources.gpus} if resources.gpus else {}), **resources.custom}


def demands(config: ExperimentConfig) -> list[tuple[str, dict[str, float]]]:
    """(name, resources) of every actor that the run places."""
    generators = [
        (f"generator {generator_id(source, index)}", requested(config.sources[source].resources))
        for source, index in config.generators
    ]
    workers = [
        (f"{config.label_of(name)} worker {rank}", requested(student.resources))
        for name, student in config.students.items()
        for rank in range(student.fewest_workers)
    ]
    placed = [(f"the {role} actor", dict(needed)) for role, needed in config.runtime.placement.items()]
    return generators + workers + placed


def amounts(resources: dict[str, float]) -> str:
    """Formatted for people: "2 CPU, 1 GPU"."""
    return ", ".join(f"{amount:g} {kind}" for kind, amount in sorted(resources.items()))


def preflight(config: ExperimentConfig) -> None:
    """Rejects, before anything starts, a run with student workers that could not work together, or that the current cluster
    could not place.

    Resources in use by other jobs count as free, because those jobs end.

    Raises:
        ResourceError: with what is needed, what there is, and what to change.
    """
    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    refusal = refusal_of_workers(config) or refusal_of(demands(config), nodes)
    if refusal is not None:
        raise ResourceError(refusal)


def decide_gpus(config: ExperimentConfig, num_gpus: float) -> tuple[ExperimentConfig, str | None]:
    """The experiment with numbers for every ``num_gpus: auto``, on a cluster with so many GPUs, and a sentence that says what
    was decided; None: nothing asks for auto, or there is no GPU to share.

    An elastic group's workers get whole GPUs, or none.
    """
    actors = [config.sources[source].resources for source, _ in config.generators]
    actors += [student.resources for student in config.students.values() for _ in range(student.num_workers)]
    sharing = sum(resources.num_gpus == "auto" for resources in actors)
    left = 0.0 if config.runtime.device == "cpu" else num_gpus - sum(resources.gpus for resources in actors)
    elastic = any(student.elastic and student.resources.num_gpus == "auto" for student in config.students.values())
    share = gpu_share(max(0.0, left), sharing, whole=elastic)
    decided = with_gpus(config, share)
    if sharing == 0 or num_gpus == 0:
        return decided, None
    who = f"{sharing} generators and student workers with num_gpus auto"
    got = f"get {share:g} each" if share else "run on CPUs"
    return decided, f"of the cluster's {num_gpus:g} GPUs, {left:g} are left for {who}: these {got}"


def cluster_size(address: str) -> tuple[int, int]:
    """(CPUs, GPUs) of all nodes of the cluster at an address.

    Raises:
        ResourceError: there is none.
    """
    with session(_At(RuntimeConfig(address=address))):
        total = ray.cluster_resources()
    return int(total.get("CPU", 1)), int(total.get("GPU", 0))


@dataclass(frozen=True)
class _At:
    """Settings that select a cluster and nothing else."""

    runtime: RuntimeConfig


def refusal_of_workers(config: ExperimentConfig) -> str | None:
    """The reason why a student's workers could not work together, or None if they can."""
    for name, student in config.students.items():
        share = student.resources.gpus
        if student.num_workers > 1 and 0 < share <= 0.5:
            return (
                f"students.{name} has {student.num_workers} workers with {share:g} GPU each, which may be placed on one GPU, "
                f"where NCCL refuses them: set students.{name}.resources.num_gpus above 0.5, or num_workers to 1"
            )
        if student.sync_batch_norm and config.runtime.device == "cpu":
            return (
                f"students.{name}.sync_batch_norm does not run with runtime.device cpu: set runtime.device to auto or cuda, "
                "or leave sync_batch_norm out"
            )
    return None


def has_room(need: dict[str, float]) -> bool:
    """Whether some node has that much free now (as of the last heartbeat)."""
    nodes = available_resources_per_node().values()
    return any(all(node.get(kind, 0) + ROUNDING >= amount for kind, amount in need.items()) for node in nodes)


def refusal_of(wanted: list[tuple[str, dict[str, float]]], nodes: list[dict[str, float]]) -> str | None:
    """The reason why ``nodes`` (their resources) cannot hold all of ``wanted`` (name and resources each), or None if they can.

    Actors are placed largest first, those that need more than CPUs before the others, each where the least would be left.
    """
    for name, need in wanted:
        broken = [kind for kind, amount in need.items() if kind == "GPU" and amount > 1 and amount % 1]
        if broken:
            return f"{name} asks for {need['GPU']:g} GPUs: above one, an actor's num_gpus must be a whole number"
    unplaced = place(wanted, [dict(node) for node in nodes])
    return None if unplaced is None else _sentence(*unplaced, wanted, nodes)


def place(wanted: list[tuple[str, dict[str, float]]], free: list[dict[str, float]]) -> tuple[str, dict[str, float]] | None:
    """Takes ``wanted`` out of the nodes' ``free`` resources, and returns the first that cannot be placed, or None."""
    for name, need in sorted(wanted, key=lambda demand: (-len(demand[1]), -sum(demand[1].values()))):
        fitting = [node for node in free if all(node.get(kind, 0) + ROUNDING >= amount for kind, amount in need.items())]
        if not fitting:
            return name, need
        node = min(fitting, key=lambda node: sum(node.get(kind, 0) for kind in need))
        for kind, amount in need.items():
            node[kind] -= amount
    return None


def _sentence(
    name: str, need: dict[str, float], wanted: list[tuple[str, dict[str, float]]], nodes: list[dict[str, float]]
) -> str:
    total: dict[str, float] = {}
    for _, each in wanted:
        for kind, amount in each.items():
            total[kind] = total.get(kind, 0) + amount
    have = {kind: sum(node.get(kind, 0) for node in nodes) for kind in total}
    short = [kind for kind in total if total[kind] > have[kind] + ROUNDING]
    if short:
        why = (
            f"the run needs {amounts({k: total[k] for k in short})} and the cluster has {amounts({k: have[k] for k in short})}"
        )
    else:
        why = f"no node has {amounts(need)} left for it, although the cluster's total would suffice"
    if name.startswith("the "):
        return f"{name} cannot be placed: {why}; change runtime.placement, or add nodes"
    return f"{name} cannot be placed: {why}; {_remedy(short or list(need))}"


def _remedy(kinds: list[str]) -> str:
    setting = {"CPU": "num_cpus", "GPU": "num_gpus"}
    settings = " and ".join(f"resources.{setting.get(kind, f'custom.{kind}')}" for kind in sorted(kinds))
    started = " (a local Ray offers runtime.num_cpus, or all of the machine's)" if "CPU" in kinds else ""
    return f"lower sources.*.num_generators, students.*.num_workers or their {settings}, or add nodes{started}"
