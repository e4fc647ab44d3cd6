"""Settings of a student and how it learns. No torch here: the configuration tree imports this file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raydfkd.distillation.objectives.config import KLObjectiveConfig
from raydfkd.synthesis.config import ResourcesConfig


class OptimizerConfig(BaseModel):
    """SGD with momentum and its learning-rate schedule over all student steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = Field(0.2, gt=0)
    """Peak learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD momentum."""
    nesterov: bool = False
    """Nesterov's form of momentum (needs momentum > 0)."""
    weight_decay: float = Field(1e-4, ge=0)
    """L2 penalty."""
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    """cosine: from the peak down to final_lr; one_cycle: linear warm-up, then cosine; constant: the peak throughout."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warm-up from lr / 25 (all schedules); one_cycle needs it above 0."""
    final_lr: float = Field(2e-4, ge=0)
    """Learning rate at the last step (cosine and one_cycle)."""
    max_grad_norm: float | None = Field(None, gt=0)
    """Gradient-norm clip; None: no clipping."""

    @model_validator(mode="after")
    def _consistent(self) -> OptimizerConfig:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")
        if self.schedule == "one_cycle" and self.warmup_steps == 0:
            raise ValueError("one_cycle needs warmup_steps above 0; schedule cosine starts at the peak")
        # Not by model_fields_set: a saved experiment holds every field, and must run again.
        if self.schedule == "constant" and self.final_lr != OptimizerConfig.model_fields["final_lr"].default:
            raise ValueError("schedule constant has no final_lr: leave it out or choose cosine")
        return self


class StudentConfig(BaseModel):
    """One student: its network, how it starts, how it learns, and where it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """Network: a catalog name, torchvision:NAME, timm:NAME or package.module:callable."""
    checkpoint: Path | None = None
    """Weights to start from (pre-trained or your own); None: random."""
    objective: KLObjectiveConfig = KLObjectiveConfig()
    """What is minimised."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How it is minimised."""
    batch_size: int = Field(256, ge=1)
    """Images per optimizer step over all workers together."""
    accumulation_steps: int = Field(1, ge=1)
    """Parts that each batch is split into to save memory; gradients add up to those of the whole batch."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay per step of the averaged student that is reported beside the last one; 0: it equals the last."""
    crop_padding: int = Field(4, ge=0)
    """Random-crop padding in pixels."""
    flip: bool = True
    """Mirror images at random."""
    compile: bool = False
    """torch.compile the student's and the teacher's forward pass (slow start, faster steps)."""
    num_workers: int = Field(1, ge=1)
    """Ray Train workers (DDP); the global batch stays batch_size."""
    resources: ResourcesConfig = ResourcesConfig()
    """What each worker asks of the cluster."""

    @model_validator(mode="after")
    def _divisible(self) -> StudentConfig:
        parts = self.num_workers * self.accumulation_steps
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by num_workers x accumulation_steps = {parts}: "
                f"choose a multiple of {parts}"
            )
        return self
