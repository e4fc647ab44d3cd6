"""ZSKT: Micaelli and Storkey, "Zero-shot Knowledge Transfer via Adversarial Belief Matching", NeurIPS 2019 (arXiv 1905.09768).

The generator enlarges the KL of the student from the teacher, and nothing else. The defaults are those of the
re-implementation that later papers compare with (Fang et al., AAAI 2022): 5 student steps on fresh images for each of the
generator's. The published run has ``latent_dim`` 100, batches of 128, ten student steps on one latent batch, Adam for both,
``max_grad_norm`` 5, a KL averaged over all elements (``adversarial_weight`` 1 / K for K classes), and, for pairs of one
family, attention transfer, which is not part of this method here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raydfkd.synthesis.adversarial.adversarial_generator import AdversarialConfig, AdversarialSynthesizer
from raydfkd.synthesis.method import Frame, Method


class ZSKTConfig(AdversarialConfig):
    """ZSKT (Micaelli and Storkey, NeurIPS 2019): a generator of images on which student and teacher differ, by the KL."""

    method: Literal["zskt"] = "zskt"
    """Name of the synthesis method."""
    adversarial_weight: float = Field(1.0, ge=0)
    """Weight of the distance between student and teacher, which the generator enlarges; 0: the student is not looked at."""


METHOD = Method(
    config=ZSKTConfig,
    build=AdversarialSynthesizer,
    title="ZSKT: a generator of images on which student and teacher differ, by KL",
    paper="Micaelli and Storkey, NeurIPS 2019",
    needs_batch_norm=True,
    needs_gradient=True,
    frame=Frame(student={"objective": {"temperature": 1}}, fresh_steps=5),
)
