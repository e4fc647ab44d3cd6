"""The synthesis methods by name: what each needs of the teacher, and where it was published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from raydfkd.registry import Registry
from raydfkd.types import Synthesizer

if TYPE_CHECKING:
    import torch

    from raydfkd.synthesis.context import SynthesisContext, SynthesisParts


class SynthesizerClass(Protocol):
    """How the builder makes a synthesizer of a method."""

    def build(self, config: Any, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> Synthesizer: ...


def _fast() -> SynthesizerClass:
    from raydfkd.synthesis.fast import FastSynthesizer

    return FastSynthesizer


def _ssdkd() -> SynthesizerClass:
    from raydfkd.synthesis.ssdkd import SSDKDSynthesizer

    return SSDKDSynthesizer


def _hidfd() -> SynthesizerClass:
    from raydfkd.synthesis.hidfd import HiDFDSynthesizer

    return HiDFDSynthesizer


def _procedural() -> SynthesizerClass:
    from raydfkd.synthesis.procedural.synthesizer import ProceduralSynthesizer

    return ProceduralSynthesizer


@dataclass(frozen=True)
class Method:
    """A synthesis method.

    Attributes:
        load: imports and returns the synthesizer's class (torch is imported only then).
        title, paper: for people.
        needs_batch_norm: it reads the teacher's BatchNorm statistics.
        needs_gradient: it differentiates the teacher with respect to its input.
    """

    load: Callable[[], SynthesizerClass]
    title: str
    paper: str
    needs_batch_norm: bool
    needs_gradient: bool


METHODS: Registry[Method] = Registry("method")
METHODS.add(
    "fast",
    Method(_fast, "FastDFKD: a meta-learned generator adapted for a few steps to each batch",
           "Fang et al., AAAI 2022", needs_batch_norm=True, needs_gradient=True),
)  # fmt: skip
METHODS.add(
    "ssdkd",
    Method(_ssdkd, "SSD-KD: FastDFKD with diversity and difficulty modulation, for prioritized replay",
           "Liu et al., CVPR 2024", needs_batch_norm=True, needs_gradient=True),
)  # fmt: skip
METHODS.add(
    "hidfd",
    Method(_hidfd, "HiDFD: a teacher-guided conditional GAN on few collected images",
           "arXiv 2412.13525", needs_batch_norm=False, needs_gradient=True),
)  # fmt: skip
METHODS.add(
    "procedural",
    Method(_procedural, "Surrogate images: rendered noise, dead leaves, shaders or crops, chosen by the teacher's classes",
           "What Makes a Good Dataset for Knowledge Distillation?", needs_batch_norm=False, needs_gradient=False),
)  # fmt: skip
