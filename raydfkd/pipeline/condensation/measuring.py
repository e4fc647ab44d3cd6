"""Seconds and memory of a task."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raydfkd.data.condensation.condenser import Work, Worker


@dataclass(frozen=True)
class Done:
    """A task's result and cost.

    Attributes:
        result: what the worker gave.
        seconds: wall time.
        peak_bytes: the most memory in use meanwhile, of the device if that is a GPU and of the process otherwise.
    """

    result: Any
    seconds: float
    peak_bytes: int


def perform(worker: Worker, work: Work, device: torch.device) -> Done:
    """Does a task."""
    _reset_peak(device)
    began = time.monotonic()
    result = worker(work)
    return Done(result, time.monotonic() - began, _peak_bytes(device))


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # other systems keep the highest mark of the whole process
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
