"""HiDFD's synthesis: a teacher-guided GAN on collected images, sampled from its averaged generator (arXiv 2412.13525).

Two schedules. The paper's: ``pretrain_steps`` train the GAN, then it only delivers (``steps_per_batch`` 0). Streaming: after a
shorter beginning it goes on for ``steps_per_batch`` between two batches, while students learn from what it made so far.
"""

from __future__ import annotations

import time
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from raydfkd.errors import ConfigError
from raydfkd.synthesis.config import HiDFDConfig
from raydfkd.synthesis.context import SynthesisContext, SynthesisParts
from raydfkd.synthesis.guided_gan import GuidedGAN
from raydfkd.types import BufferSummary, Preparation, SyntheticBatch, WeightsVersion

SLICE_S = 5.0
"""How long ``prepare`` works at a time, so that its state can be had in between and its progress is seen."""


class HiDFDSynthesizer:
    """Trains a ``GuidedGAN`` and delivers its images. It has no use for the student."""

    def __init__(self, config: HiDFDConfig, gan: GuidedGAN, context: SynthesisContext) -> None:
        self.config = config
        self.gan = gan
        self.context = context
        self.student_version: WeightsVersion = 0

    @classmethod
    def build(cls, config: HiDFDConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> Self:
        """From the networks and images of a run.

        Raises:
            ConfigError: there are no collected images, or they have a size that the GAN cannot make.
            TeacherError: the teacher's features cannot be found.
        """
        if parts.collected is None:
            raise ConfigError("hidfd trains a GAN on real images: say in collected where they are")
        teacher = parts.teacher.to(device).to(memory_format=torch.channels_last)
        images = torch.from_numpy(np.array(parts.collected.images))
        classes = torch.from_numpy(np.array(parts.collected.teacher_class))
        gan = GuidedGAN(config, teacher, images, classes, context.seed, device, context.bf16)
        return cls(config, gan, context)

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        self.student_version = version

    def prepare(self) -> Preparation | None:
        """The GAN's training before the first batch, some seconds of it."""
        began, trained = time.monotonic(), _Means()
        while self.gan.num_steps < self.config.pretrain_steps:
            trained.add(self.gan.train_step())
            if time.monotonic() - began > SLICE_S:
                break
        if not trained.count:
            return None
        return Preparation(self.gan.num_steps, self.config.pretrain_steps, time.monotonic() - began, trained.means())

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        trained = _Means()
        for _ in range(self.config.steps_per_batch):
            trained.add(self.gan.train_step())
        images, targets = self.gan.sample(self.config.batch_size)
        return self._judged(images, targets, trained.means())

    def _judged(self, images: Tensor, targets: Tensor, metrics: dict[str, float]) -> SyntheticBatch:
        """Rounded to uint8, with what the teacher says of that; new images get the table's largest priority."""
        stored = (images * 255).round_().to(torch.uint8)
        judged = self.gan.teacher.judge(stored, self.context.bf16)
        return SyntheticBatch(
            images=stored.contiguous(memory_format=torch.contiguous_format).cpu().numpy(),
            targets=targets.cpu().numpy(),
            teacher_class=judged.classes.cpu().numpy(),
            teacher_confidence=judged.confidences.cpu().numpy(),
            source=self.config.method,
            generator_id=self.context.generator_id,
            student_version=self.student_version,
            metrics=metrics,
        )

    def state_dict(self) -> dict[str, Any]:
        return self.gan.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gan.load_state_dict(state)


class _Means:
    """Means of named scalars; tensors are read only at the end."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        self.count += 1
        for name, term in terms.items():
            self._sums[name] = self._sums[name] + term.float() if name in self._sums else term.float()

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.count for name, total in self._sums.items()}
