"""Settings of an experiment that are about this run of it: where and how it executes, and which row of a paper it is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from raydfkd.settings import Settings


class RuntimeConfig(Settings):
    """Where and how the run executes."""

    runner: Literal["local", "ray"] = "ray"
    """local: everything in this process, without Ray; ray: actors."""
    seed: int = Field(0, ge=0)
    """All of the run's random generators derive from it."""
    out: Path | None = None
    """Run directory; null: runs/<experiment>-<seed>."""
    address: str | None = None
    """Ray cluster to join (e.g. auto, ray://host:10001); null: a local Ray, started and stopped by the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU that Ray assigned (or, run locally, the first one), otherwise the CPU."""
    bf16: bool = True
    """Use bfloat16 autocast if the device supports it."""
    checkpoint_period_rounds: int = Field(25, ge=1)
    """Rounds between checkpoints of everything (student, generators, buffer)."""
    snapshot_period_s: float = Field(30.0, gt=0)
    """Seconds between snapshots of the buffer (ray; this bounds what a killed replay actor loses), and of generators that have
    not delivered their first batch yet."""
    log_period_steps: int = Field(20, ge=1)
    """Student steps between metrics records."""
    wait_timeout_s: float = Field(300.0, gt=0)
    """Longest wait for anything; after it the run stops and reports what it was waiting for."""
    max_restarts: int = Field(3, ge=0)
    """ray: how many times each generator, the replay actor and each student's worker group may be restarted."""
    delivery: Literal["mirror", "gather"] = "mirror"
    """ray: students keep a mirror of the buffer, or are sent each batch's images (for a node that cannot hold the buffer)."""
    mlflow_uri: str | None = None
    """MLflow tracking server (or local store) to also log metrics to; null: none. Needs pip install 'raydfkd[mlflow]'."""
    num_cpus: float | None = Field(None, gt=0)
    """ray, only if the run starts Ray: CPUs that Ray may use; null: all."""
    placement: dict[Literal["replay", "weights", "pool", "coordinator"], dict[str, float]] = Field(default_factory=dict)
    """ray: custom Ray resources that the run's own actors request, by role, so that each is placed on a node that has them,
    e.g. {replay: {buffer_node: 1}}. Others are placed on the driver's node, which the run cannot outlive anyway."""

    @model_validator(mode="after")
    def _places(self) -> RuntimeConfig:
        for role, resources in self.placement.items():
            if not resources or any(amount <= 0 or kind in ("CPU", "GPU") for kind, amount in resources.items()):
                raise ValueError(f"{role} is {resources}: give custom resources and amounts above 0, e.g. {{{role}_node: 1}}")
        return self


class ReproducesConfig(Settings):
    """The row of a paper's table that an experiment is, recorded with its result."""

    paper: str
    """Name of the paper's file."""
    table: str
    """Table of the paper."""
    row: str
    """Row, as ``raydfkd reproduce PAPER TABLE --list`` names it."""
    scale: float = Field(1.0, gt=0, le=1)
    """Share of the paper's budget that the experiment spends."""

    def recorded(self) -> dict[str, str | float]:
        """As manifest and result have it; ``title`` marks a share of the budget."""
        share = "" if self.scale == 1 else f" (at {self.scale:g} of its budget)"
        title = f"{self.paper} {self.table} {self.row}{share}"
        return {"paper": self.paper, "table": self.table, "row": self.row, "scale": self.scale, "title": title}
