"""DFQ: Choi et al., "Data-Free Network Quantization with Adversarial Knowledge Distillation", CVPR workshops 2020.

The generator enlarges the KL between student and teacher, matches the teacher's BatchNorm statistics, and makes images of
which the teacher is sure, of all classes. All terms and weights are those of the re-implementation that later papers compare
with (Fang et al., AAAI 2022; its entropy is to base e, hence 20 ln 10), with 10 student steps for each of the generator's; the
paper's own BatchNorm term is a KL between Gaussians.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from raydfkd.synthesis.adversarial.adversarial_generator import AdversarialConfig, AdversarialSynthesizer
from raydfkd.synthesis.method import Frame, Method


class DFQConfig(AdversarialConfig):
    """DFQ (Choi et al., 2020): a generator against the student that also matches the teacher's BatchNorm statistics."""

    method: Literal["dfq"] = "dfq"
    """Name of the synthesis method."""
    batch_size: int = Field(2560, ge=1)
    """Images per batch added to the buffer, all of the generator as its steps have left it: 10 batches of 256."""
    one_hot_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher predicts."""
    entropy_weight: float = Field(20 * math.log(10), ge=0)
    """Weight of the negative entropy, to base 10, of the batch's mean prediction: classes are made equally often."""
    bn_weight: float = Field(1.0, ge=0)
    """Weight of the BatchNorm-statistics loss."""
    adversarial_weight: float = Field(1.0, ge=0)
    """Weight of the distance between student and teacher, which the generator enlarges; 0: the student is not looked at."""


METHOD = Method(
    config=DFQConfig,
    build=AdversarialSynthesizer,
    title="DFQ: a generator against the student that matches BatchNorm statistics",
    paper="Choi et al., CVPRW 2020",
    needs_batch_norm=True,
    needs_gradient=True,
    frame=Frame(student={"objective": {"temperature": 1}}, fresh_steps=10),
)
