"""SSD-KD's synthesis: FastDFKD whose task loss is modulated towards rare classes and hard images.

Liu et al., "Small Scale Data-Free Knowledge Distillation", CVPR 2024, Eqs 1-3. The generator minimises

    bn_weight * L_BN + one_hot_weight * (1/B) sum_i phi(x_i) CE(t_i, y_i) + adversarial_weight * L_adv

with phi of Eq. 3 (``losses.inversion.modulating_weights``). Eq. 2 prints a min-max whose signs, read literally, would let
the generator maximise the BN and task terms; it minimises them here and maximises only the KD term. No official code
exists: steps, rates and BN momentum are FastDFKD's, whose settings the paper says it shares.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raydfkd.losses.inversion import modulating_weights
from raydfkd.synthesis.config import SSDKDConfig
from raydfkd.synthesis.fast import FastSynthesizer
from raydfkd.types import BufferSummary


class SSDKDSynthesizer(FastSynthesizer):
    """FastDFKD with phi; the buffer's class histogram before the insertion is what "rare" means."""

    config: SSDKDConfig

    def task_weights(self, teacher_logits_BK: Tensor, targets_B: Tensor, summary: BufferSummary) -> Tensor | None:
        if not (self.config.diversity or self.config.difficulty):
            return None
        return modulating_weights(
            teacher_logits_BK,
            torch.tensor(summary.class_counts, device=self.device),  # a copy: what came through an object store is read-only
            summary.size,
            diversity=self.config.diversity,
            difficulty=self.config.difficulty,
            gamma=self.config.difficulty_gamma,
            targets_B=self.task_targets(teacher_logits_BK, targets_B) if self.config.difficulty_of == "target" else None,
        )

    def task_targets(self, teacher_logits_BK: Tensor, targets_B: Tensor) -> Tensor:
        return targets_B if self.config.target == "random" else teacher_logits_BK.detach().argmax(1)
