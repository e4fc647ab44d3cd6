"""DAFL: Chen et al., "Data-Free Learning of Student Networks", ICCV 2019 (arXiv 1904.01186).

The generator plays for the teacher alone: one-hot predictions, large activations and evenly many images of each class. The
defaults are those of the re-implementation that later papers compare with (Fang et al., AAAI 2022, whose entropy is to base e,
hence 20 ln 10); its schedule has 5 student steps for each of the generator's. The presets are the paper's own runs, which have
one student step for each of the generator's, on the same images; here the student's are made after the generator's step.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from raydfkd.synthesis.adversarial.adversarial_generator import AdversarialConfig, AdversarialSynthesizer
from raydfkd.synthesis.method import Frame, Method, Presets

_CIFAR: dict[str, Any] = {
    "generator": "normalized",
    "generator_betas": (0.9, 0.999),
    "batch_size": 1024,
    "generator_batch_size": 1024,
    "latent_dim": 1000,
    "generator_lr": 0.02,
}


class DAFLConfig(AdversarialConfig):
    """DAFL (Chen et al., ICCV 2019): a generator of images that the teacher is sure of, of all classes."""

    presets: ClassVar[Presets] = {
        "published_mnist": {
            "generator": "normalized",
            "generator_betas": (0.9, 0.999),
            "batch_size": 512,
            "generator_batch_size": 512,
            "latent_dim": 100,
            "generator_lr": 0.2,
            "one_hot_weight": 1.0,
            "entropy_weight": 5.0,
            "activation_weight": 0.1,
        },
        "published_cifar10": {**_CIFAR, "one_hot_weight": 0.05, "entropy_weight": 5.0, "activation_weight": 0.01},
        "published_cifar100": {**_CIFAR, "one_hot_weight": 0.5, "entropy_weight": 20.0, "activation_weight": 0.1},
    }

    method: Literal["dafl"] = "dafl"
    """Name of the synthesis method."""
    preset: Literal["published_mnist", "published_cifar10", "published_cifar100"] | None = None
    """The paper's own settings for a data set, for what is not given here."""
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
