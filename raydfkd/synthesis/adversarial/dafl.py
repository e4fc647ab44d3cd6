"""DAFL: Chen et al., "Data-Free Learning of Student Networks", ICCV 2019 (arXiv 1904.01186).

The generator plays for the teacher alone: one-hot predictions, large activations and evenly many images of each class. The
defaults are those of the re-implementation that later papers compare with (Fang et al., AAAI 2022, whose entropy is to base e,
hence 20 ln 10); its schedule has 5 student steps for each of the generator's. The published CIFAR-10 run has ``one_hot_weight``
0.05, ``activation_weight`` 0.01, ``entropy_weight`` 5, ``generator_lr`` 0.02, ``latent_dim`` 1000, batches of 1024, and one
student step for each of the generator's.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from raydfkd.synthesis.adversarial.adversarial_generator import AdversarialConfig, AdversarialSynthesizer
from raydfkd.synthesis.method import Frame, Method


class DAFLConfig(AdversarialConfig):
    """DAFL (Chen et al., ICCV 2019): a generator of images that the teacher is sure of, of all classes."""

    method: Literal["dafl"] = "dafl"
    """Name of the synthesis method."""
    latent_dim: int = Field(512, ge=1)
    """Width of the latent vector."""
    one_hot_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy to the class that the teacher predicts."""
    entropy_weight: float = Field(20 * math.log(10), ge=0)
    """Weight of the negative entropy, to base 10, of the batch's mean prediction: classes are made equally often."""
    activation_weight: float = Field(1e-3, ge=0)
    """Weight of the reward for large penultimate features; 0: the teacher's features are not read."""


METHOD = Method(
    config=DAFLConfig,
    build=AdversarialSynthesizer,
    title="DAFL: a generator of images that the teacher is sure of, of all classes",
    paper="Chen et al., ICCV 2019",
    needs_batch_norm=True,
    needs_gradient=True,
    frame=Frame(student={"objective": {"temperature": 1}}, fresh_steps=5),
)
