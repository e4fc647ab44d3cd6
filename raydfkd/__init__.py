"""raydfkd: distil a trained teacher into a small student when the training data is gone.

Importing the package imports neither torch nor ray: the public names are loaded on first use.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Read when torch is loaded. By default torch's threads spin while they wait for each other: where two processes share the
cores, most of the time goes into waiting for a thread that is not running."""

_LAZY = {
    "distill": "raydfkd.api",
    "Result": "raydfkd.api",
    "propose": "raydfkd.api",
    "Told": "raydfkd.pipeline.proposal.findings",
    "sweep": "raydfkd.api",
    "SweepResult": "raydfkd.api",
    "build_dataset": "raydfkd.api",
    "BuiltDataset": "raydfkd.api",
    "condense": "raydfkd.api",
    "ExperimentConfig": "raydfkd.pipeline.experiment.config",
    "FrozenTeacher": "raydfkd.models.teachers.teacher",
    "RaydfkdError": "raydfkd.errors",
}

__all__ = [*sorted(_LAZY), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'raydfkd' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
