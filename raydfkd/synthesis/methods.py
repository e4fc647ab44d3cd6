"""The synthesis methods by name: what each needs of the teacher, and where it was published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raydfkd.registry import Registry
from raydfkd.types import Synthesizer


def _fast() -> Callable[..., Synthesizer]:
    from raydfkd.synthesis.fast import FastSynthesizer

    return FastSynthesizer


def _ssdkd() -> Callable[..., Synthesizer]:
    from raydfkd.synthesis.ssdkd import SSDKDSynthesizer

    return SSDKDSynthesizer


@dataclass(frozen=True)
class Method:
    """A synthesis method.

    Attributes:
        load: imports and returns the synthesizer's class (torch is imported only then).
        title, paper: for people.
        needs_batch_norm: it reads the teacher's BatchNorm statistics.
        needs_gradient: it differentiates the teacher with respect to its input.
    """

    load: Callable[[], Callable[..., Synthesizer]]
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
