"""A GAN on collected images as a source: it is trained, then it delivers.

Two schedules. The papers': ``pretrain_steps`` train the GAN, then it only delivers (``steps_per_batch`` 0). Streaming: after a
shorter start it trains for ``steps_per_batch`` steps between batches, while students learn from what it has made so far.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self

import numpy as np
from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.errors import ConfigError
from raydfkd.settings import Budget
from raydfkd.synthesis.method import SynthesisConfig, SynthesisContext, SynthesisParts
from raydfkd.types import BufferSummary, Preparation, SyntheticBatch, WeightsVersion

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
    from raydfkd.tasks.task import Task
else:
    torch = deferred("torch")

SLICE_S = 5.0
"""Duration of one ``prepare`` slice, between which state can be saved and progress reported."""


class GANConfig(SynthesisConfig):
    """When a GAN on collected images is trained."""

    pretrain_steps: Annotated[int, Budget()] = Field(ge=0)
    """GAN steps before the first batch is delivered."""
    steps_per_batch: int = Field(0, ge=0)
    """GAN steps between two delivered batches; 0: the GAN is frozen once it delivers, as published."""

    @model_validator(mode="after")
    def _is_trained(self) -> Self:
        if self.pretrain_steps == 0 and self.steps_per_batch == 0:
            raise ValueError("pretrain_steps and steps_per_batch are both 0, so the GAN would never be trained: raise one")
        return self

    @property
    def images_per_step(self) -> int:
        """Images that go through the teacher in a GAN step."""
        raise NotImplementedError

    def images_trained_on(self, batches: int) -> int:
        return (self.pretrain_steps + batches * self.steps_per_batch) * self.images_per_step


class GAN(Protocol):
    """What the synthesizer needs of a GAN."""

    teacher: FrozenTeacher
    num_steps: int

    def train_step(self) -> dict[str, Tensor]:
        """One generator update with its discriminator updates; returns their losses, detached."""
        ...

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Images [count,C,H,W] in [0,1] at the task's size, and the requested classes int64 [count], -1 without one."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class GANSynthesizer:
    """Trains a GAN and delivers its images. It does not use the student."""

    def __init__(self, config: GANConfig, task: Task, gan: GAN, context: SynthesisContext) -> None:
        self.config = config
        self.task = task
        self.gan = gan
        self.context = context
        self.student_version: WeightsVersion = 0

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        self.student_version = version

    def prepare(self) -> Preparation | None:
        """Runs a few seconds of the GAN's training before the first batch."""
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
        """Rounded to uint8, with the teacher's judgement of the result; new images get the table's largest priority."""
        stored = (images * 255).round_().to(torch.uint8)
        return SyntheticBatch.of_judgement(
            self.task.judge(self.gan.teacher.logits_of(stored, self.context.bf16)),
            images=stored.contiguous(memory_format=torch.contiguous_format).cpu().numpy(),
            targets=targets.cpu().numpy(),
            source=self.config.method,
            generator_id=self.context.generator_id,
            student_version=self.student_version,
            metrics=metrics,
        )

    def state_dict(self) -> dict[str, Any]:
        return self.gan.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gan.load_state_dict(state)


def collected_tensors(method: str, parts: SynthesisParts) -> tuple[Tensor, Tensor]:
    """The collected images uint8 [N,C,H,W] and their classes int64 [N].

    Raises:
        ConfigError: there are none.
    """
    if parts.collected is None:
        raise ConfigError(f"{method} trains a GAN on real images: give them in collected")
    return torch.from_numpy(np.array(parts.collected.images)), torch.from_numpy(np.array(parts.collected.targets))


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
