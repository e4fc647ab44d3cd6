"""DDAD: Zhao et al., "Dual Discriminator Adversarial Distillation for Data-free Model Compression", 2021 (arXiv 2104.05382).

Teacher and student are the two discriminators: the generator matches the teacher's BatchNorm statistics and enlarges the
discrepancy between student and teacher, which the student (objective l1) makes smaller. It minimises

    bn_weight * L_BN + one_hot_weight * CE(t, argmax t) + entropy_weight * sum p log10 p - adversarial_weight * mean |t - s|

There is no code, and of the paper's text the abstract alone was at hand, which names L_BN and the discrepancy. That this is
DFAD's L1, with its schedule (batches of 256, 5 student steps for each of the generator's), the two terms of DAFL, and all
weights are our choice.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raydfkd.synthesis.adversarial.adversarial_generator import AdversarialConfig, AdversarialSynthesizer
from raydfkd.synthesis.method import Frame, Method


class DDADConfig(AdversarialConfig):
    """DDAD (Zhao et al., 2021): a generator against the student, by L1, that matches the teacher's BatchNorm statistics."""

    method: Literal["ddad"] = "ddad"
    """Name of the synthesis method."""
    one_hot_weight: float = Field(0.05, ge=0)
    """Weight of the cross-entropy to the class that the teacher predicts."""
    entropy_weight: float = Field(5.0, ge=0)
    """Weight of the negative entropy, to base 10, of the batch's mean prediction: classes are made equally often."""
    bn_weight: float = Field(1.0, ge=0)
    """Weight of the BatchNorm-statistics loss."""
    adversarial_weight: float = Field(1.0, ge=0)
    """Weight of the distance between student and teacher, which the generator enlarges; 0: the student is not looked at."""
    adversarial_distance: Literal["kl", "l1", "log_l1"] = "l1"
    """That distance: KL of student from teacher at temperature 1, mean L1 of the logits, or log(L1 + 1)."""


METHOD = Method(
    config=DDADConfig,
    build=AdversarialSynthesizer,
    title="DDAD: a generator against the student, by L1, that matches BatchNorm statistics",
    paper="Zhao et al., arXiv 2104.05382",
    needs_batch_norm=True,
    needs_gradient=True,
    frame=Frame(student={"objective": {"kind": "l1"}}, fresh_steps=5),
)
