"""What an actor requests from a cluster. Imports neither torch nor ray."""

from __future__ import annotations

import math
from typing import TypeVar

from pydantic import Field

from raydfkd.settings import Settings, rewritten

SettingsT = TypeVar("SettingsT", bound=Settings)


class ResourcesConfig(Settings):
    """What one actor requests from the cluster."""

    num_cpus: float = Field(1, gt=0)
    """CPUs reserved per actor (fractions allowed)."""
    num_gpus: float = Field(0, ge=0)
    """GPUs reserved per actor (fractions allowed)."""
    num_threads: int | None = Field(None, ge=1)
    """torch threads per actor; null: its CPUs, rounded up."""
    custom: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources per actor, e.g. {gen_node: 1}."""

    @property
    def threads(self) -> int:
        """torch threads of an actor: as configured, otherwise its CPUs rounded up."""
        return max(1, math.ceil(self.num_cpus)) if self.num_threads is None else self.num_threads


def without_gpus(settings: SettingsT) -> SettingsT:
    """These settings with no GPU requested by any actor."""
    changed: SettingsT = rewritten(settings, lambda part: {"num_gpus": 0} if isinstance(part, ResourcesConfig) else {})
    return changed
