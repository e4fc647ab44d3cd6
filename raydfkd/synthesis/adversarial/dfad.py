"""DFAD: Fang et al., "Data-Free Adversarial Distillation", 2019 (arXiv 1912.11006).

The generator enlarges the mean L1 distance between the student's logits and the teacher's, which the student (objective l1)
makes smaller, in 5 steps for each of the generator's. The defaults are those of the re-implementation that later papers compare
with (Fang et al., AAAI 2022). The presets are the paper's own runs, for classification and for segmentation (NYUv2). Their
generator is DAFL's but for the BatchNorms' epsilon; for segmentation it is one of transposed convolutions.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from raydfkd.synthesis.adversarial.adversarial_generator import AdversarialConfig, AdversarialSynthesizer
from raydfkd.synthesis.method import Frame, Method, Presets, Suggestion, TeacherTraits

_PUBLISHED: dict[str, Any] = {"generator": "normalized", "generator_betas": (0.9, 0.999)}

SMALL_SIDE = 16


class DFADConfig(AdversarialConfig):
    """DFAD (Fang et al., 2019): a generator of images on which student and teacher differ, by the L1 of their logits."""

    presets: ClassVar[Presets] = {
        "published": _PUBLISHED,
        "published_nyuv2": {
            "generator": "transposed",
            "generator_betas": (0.9, 0.999),
            "batch_size": 320,
            "generator_batch_size": 64,
            "adversarial_distance": "log_l1",
        },
    }

    method: Literal["dfad"] = "dfad"
    """Name of the synthesis method."""
    preset: Literal["published", "published_nyuv2"] | None = None
    """The paper's own settings, for what is not given here."""
    adversarial_weight: float = Field(1.0, ge=0)
    """Weight of the distance between student and teacher, which the generator enlarges; 0: the student is not looked at."""
    adversarial_distance: Literal["kl", "l1", "log_l1"] = "l1"
    """That distance: KL of student from teacher at temperature 1, mean L1 of the logits, or log(L1 + 1)."""


def suggest(teacher: TeacherTraits) -> Suggestion | None:
    """For teachers without BatchNorm, with DAFL's balance of classes, which keeps a generator from collapse."""
    _, height, width = teacher.image_shape
    if not teacher.input_gradient or teacher.has_batch_norm:
        return None
    settings: dict[str, Any] = {"steps_per_batch": 4, "entropy_weight": 5, "one_hot_weight": 0.05}
    if min(height, width) < SMALL_SIDE:
        settings |= {"generator_batch_size": 128, "base_channels": 32, "latent_dim": 64}
    reasons = {
        "method": "the teacher has a gradient: a generator makes images of all classes on which student and teacher differ",
        "entropy_weight": "without BatchNorm statistics nothing else makes images of all classes",
    }
    return Suggestion(3, settings, reasons, student={"objective": {"kind": "l1"}})


METHOD = Method(
    config=DFADConfig,
    build=AdversarialSynthesizer,
    title="DFAD: a generator of images on which student and teacher differ, by L1",
    paper="Fang et al., arXiv 1912.11006",
    needs_batch_norm=True,
    needs_gradient=True,
    suggest=suggest,
    frame=Frame(student={"objective": {"kind": "l1"}}, fresh_steps=5),
)
