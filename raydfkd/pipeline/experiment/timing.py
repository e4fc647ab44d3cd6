"""How long work takes on this machine, as far as other work on it allows to say."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from raydfkd.resources import available_cpus

LONGEST_S = 2.0
"""Work that takes less is repeated, at most ``MOST_TIMES``."""
MOST_TIMES = 5
BUSY = 0.25
"""Share of the CPUs in others' use from which times are no longer those of this machine alone."""


class Timing:
    """Times pieces of work on a device.

    Other work on the machine stretches the time on the wall but not the processor's time, which is the sum over threads. So a
    CPU's figure is the smaller of both, and the smallest of several: at most ``threads`` times the time on an idle machine.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began, self._busy_s, self._own_s = time.monotonic(), _busy_s(), time.process_time()

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds of one piece, after which the device has finished."""
        found: list[float] = []
        spent_s = 0.0
        while not found or (len(found) < MOST_TIMES and spent_s < LONGEST_S):
            wall, processor = time.perf_counter(), time.process_time()
            work()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            wall_s, processor_s = time.perf_counter() - wall, time.process_time() - processor
            spent_s += wall_s
            found.append(wall_s if self._device.type == "cuda" else min(wall_s, processor_s))
        return min(found)

    def warning(self) -> str | None:
        """What else the machine does since this object exists, if it is much."""
        elapsed_s = time.monotonic() - self._began
        others = (_busy_s() - self._busy_s - (time.process_time() - self._own_s)) / max(elapsed_s, 1e-9)
        if others < BUSY * available_cpus():
            return None
        return (
            f"other processes keep about {others:.1f} of {available_cpus()} CPUs busy: a run takes longer than these times "
            "while they do"
        )


def _busy_s() -> float:
    """Seconds that all processors together have worked since the machine started; 0 where the system does not say."""
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
