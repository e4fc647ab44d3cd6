"""What an actor requests from a cluster, and what this process has of its machine. Importing it loads neither torch nor ray."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from raydfkd.settings import Settings, rewritten

SettingsT = TypeVar("SettingsT", bound=Settings)


class ResourcesConfig(Settings):
    """What one actor requests from the cluster."""

    num_cpus: float = Field(1, gt=0)
    """CPUs reserved per actor (fractions allowed)."""
    num_gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """GPUs reserved per actor (fractions allowed); auto: of a run's generators and students, an equal share of the cluster's
    GPUs that none of them asks for by number; of all other actors none."""
    num_threads: int | None = Field(None, ge=1)
    """torch threads per actor; null: its CPUs, rounded up."""
    custom: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources per actor, e.g. {gen_node: 1}."""

    @property
    def gpus(self) -> float:
        """GPUs asked for by number; 0 for auto."""
        return 0 if self.num_gpus == "auto" else self.num_gpus

    @property
    def threads(self) -> int:
        """torch threads of an actor: as configured, otherwise its CPUs rounded up."""
        return max(1, math.ceil(self.num_cpus)) if self.num_threads is None else self.num_threads


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may use: those of its affinity, at most the quota of its control group (as of a container).

    Args:
        root: where the machine's file systems are, for tests.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *map(math.ceil, _quotas(root))]))


def _quotas(root: Path) -> list[float]:
    """CPUs of each limit above this process: cpu.max in version 2 of control groups, cfs_quota_us in version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controllers
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            quotas += _quota(folder)
            if folder == top:
                break
    return quotas


def _quota(folder: Path) -> list[float]:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except (OSError, ValueError):  # there is none, or it says "max"
        return []


def use_threads(asked: int | None) -> None:
    """Sets how many threads torch has in this process: as asked, otherwise as many as it has, at most ``available_cpus``.

    torch itself starts one for each CPU of the machine (or OMP_NUM_THREADS), whatever share of them a container may use. Other
    processes do not count: the number changes the order of sums, and the same seed is to give the same student.
    """
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), available_cpus()) if asked is None else asked)


def gpu_share(num_gpus: float, num_actors: int, whole: bool = False) -> float:
    """What each of ``num_actors`` gets of ``num_gpus``: one, or an equal part of one where they are fewer; 0 if there is none.

    Parts are rounded down to thousandths, so that those of one GPU are never more than it.

    Args:
        whole: no parts of a GPU; 0 if there are too few.
    """
    gpus = int(num_gpus)
    if gpus == 0 or num_actors == 0 or gpus >= num_actors:
        return float(gpus > 0 and num_actors > 0)
    return 0.0 if whole else math.floor(1000 / math.ceil(num_actors / gpus)) / 1000


def with_gpus(settings: SettingsT, share: float) -> SettingsT:
    """These settings with ``share`` in place of every ``num_gpus: auto``."""
    changed: SettingsT = rewritten(
        settings,
        lambda part: {"num_gpus": share} if isinstance(part, ResourcesConfig) and part.num_gpus == "auto" else {},
    )
    return changed


def without_gpus(settings: SettingsT) -> SettingsT:
    """These settings with no GPU requested by any actor."""
    changed: SettingsT = rewritten(settings, lambda part: {"num_gpus": 0.0} if isinstance(part, ResourcesConfig) else {})
    return changed
