"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from raydfkd.distillation.config import OptimizerConfig

WARMUP_START = 1 / 25
"""Share of the peak rate at the first step of a warm-up (one-cycle's usual divisor)."""


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Rate for update ``step`` (from 0) of ``total_steps``.

    Linear warm-up from lr/25 to lr over ``warmup_steps``, then constant, a tenth at each milestone, or lr * cosine down to
    ``final_lr``, reached at the last step. SSD-KD and FastDFKD: cosine from .2 to 2e-4, no warm-up. HiDFD: milestones.
    """
    if step < config.warmup_steps:
        share = step / config.warmup_steps
        return config.lr * (WARMUP_START + (1 - WARMUP_START) * share)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "multi_step":
        return config.lr * 0.1 ** sum(step >= share * total_steps for share in config.milestones)
    progress = (step - config.warmup_steps) / max(1, total_steps - 1 - config.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return config.final_lr + (config.lr - config.final_lr) * cosine
