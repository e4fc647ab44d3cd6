"""What a synthesizer is built from besides its own settings."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.types import SyntheticBatch


@dataclass(frozen=True)
class SynthesisContext:
    """What a synthesizer knows of the run around it.

    Attributes:
        generator_id: stamped on its batches.
        seed: of its networks' start and of its own random generator.
        warmup_batches: batches inserted before the student's first step, in the whole run.
        priority_temperature: temperature of the KD loss that gives a new image its priority (SSD-KD Eq. 4).
        bf16: run networks in bfloat16 autocast where the device has it.
    """

    generator_id: str
    seed: int
    warmup_batches: int
    priority_temperature: float
    bf16: bool = True


@dataclass(frozen=True)
class SynthesisParts:
    """The networks and images that a synthesizer may use; nobody else holds these copies.

    Attributes:
        teacher: frozen.
        student: as it starts; its weights come by ``load_student``.
        collected: real images that the teacher has labelled, None where the experiment has none.
    """

    teacher: FrozenTeacher
    student: nn.Module
    collected: SyntheticBatch | None = None
