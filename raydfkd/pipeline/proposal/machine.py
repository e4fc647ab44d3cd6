"""What a proposal knows of the machine, or of the cluster, that a run will be on."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from raydfkd.resources import available_cpus

MANY_CORES = 8
"""Cores from which generators beside the student, by Ray, are worth their own processes."""


@dataclass(frozen=True)
class Machine:
    """What there is.

    Attributes:
        cores: that this process may use, or of a whole cluster.
        gpus: likewise.
        memory_bytes: that one network's training may use: of a GPU if there is one, otherwise of the machine.
        address: of a Ray cluster; None: this machine alone.
    """

    cores: int
    gpus: int
    memory_bytes: int
    address: str | None = None

    @property
    def uses_ray(self) -> bool:
        """Whether generators and student are worth processes of their own."""
        return self.address is not None or self.gpus > 1 or (self.gpus == 0 and self.cores >= MANY_CORES)

    def describe(self) -> str:
        gpus = "" if self.gpus == 0 else f", {self.gpus} GPU{'s' if self.gpus > 1 else ''}"
        where = "this machine" if self.address is None else f"the cluster {self.address}"
        return f"{where}: {self.cores} core{'s' if self.cores > 1 else ''}, {self.memory_bytes / 2**30:.0f} GiB{gpus}"


def this_machine() -> Machine:
    """Of this process."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus:
        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(available_cpus(), gpus, memory)
