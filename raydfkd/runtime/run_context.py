"""The information that every actor of a run gets, and how the actors find each other."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from raydfkd.pipeline.experiment.config import ExperimentConfig
from raydfkd.run_dir import RunDir


def _new_prefix() -> str:
    return f"raydfkd-{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True)
class RunContext:
    """The one constructor argument of a run's actors: small and plain, so that Ray can recreate a dead actor at any time.

    It holds no actor handle (a handle among the arguments keeps them in the object store, where they can be lost): actors
    look each other up by name, which also finds a restarted one.

    Attributes:
        config: the experiment.
        path: the run directory, on storage that every node can access.
        resume_from: a checkpoint folder to continue from, None to start afresh.
        prefix: prefix of the actors' names, different for every start of a run.
        grouped: whether the run is a sweep's trial, with room for its generators in the trial's placement group.
    """

    config: ExperimentConfig
    path: Path
    resume_from: Path | None = None
    prefix: str = field(default_factory=_new_prefix)
    grouped: bool = False

    @property
    def run(self) -> RunDir:
        return RunDir(self.path)

    def name_of(self, role: str) -> str:
        return f"{self.prefix}/{role}"

    def actor(self, role: str) -> Any:
        """The handle of one of the run's actors: ``replay``, ``weights``, ``coordinator`` or ``pool``.

        Raises:
            ValueError: it is permanently dead.
        """
        return ray.get_actor(self.name_of(role))
