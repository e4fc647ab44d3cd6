"""ZSKT: Micaelli and Storkey, "Zero-shot Knowledge Transfer via Adversarial Belief Matching", NeurIPS 2019 (arXiv 1905.09768).

The generator enlarges the KL of the student from the teacher, and nothing else. The defaults are those of the
re-implementation that later papers compare with (Fang et al., AAAI 2022): 5 student steps on fresh images for each of the
generator's. The preset is the paper's own run: ten student steps on one batch of 128 for each of the generator's, whose
gradient is cut to length 5, and a KL averaged over all elements, hence ``adversarial_weight`` 1 / K for its K = 10 classes. A
student of the teacher's family has attention transfer (objective attention_transfer), any other kl with temperature 1; with
replay.synthetic capacity 128 and max_draws 10 its ten steps are on one batch. Here that batch is of new latents, where the
paper's is of those of the generator's step, the generator's rate stays, where the paper's falls along a cosine, and it ends
in a sigmoid, where the paper's ends in a BatchNorm.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from raydfkd.synthesis.adversarial.adversarial_generator import AdversarialConfig, AdversarialSynthesizer
from raydfkd.synthesis.method import Frame, Method, Presets


class ZSKTConfig(AdversarialConfig):
    """ZSKT (Micaelli and Storkey, NeurIPS 2019): a generator of images on which student and teacher differ, by the KL."""

    presets: ClassVar[Presets] = {
        "published": {
            "batch_size": 128,
            "generator_batch_size": 128,
            "generator": "standard",
            "latent_dim": 100,
            "generator_betas": (0.9, 0.999),
            "max_grad_norm": 5.0,
            "adversarial_weight": 0.1,
        }
    }

    method: Literal["zskt"] = "zskt"
    """Name of the synthesis method."""
    preset: Literal["published"] | None = None
    """The paper's own settings, for what is not given here."""
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
