"""HiDFD's synthesis: a teacher-guided GAN on collected images, sampled from its averaged generator (arXiv 2412.13525).

Two schedules. The paper's: ``pretrain_steps`` train the GAN, then it only delivers (``steps_per_batch`` 0). Streaming: after a
shorter start it trains for ``steps_per_batch`` steps between batches, while students learn from what it has made so far.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from raydfkd.deferred import deferred
from raydfkd.errors import ConfigError
from raydfkd.metrics import Figure
from raydfkd.settings import Budget
from raydfkd.synthesis.guided_gan import GuidedGAN, GuidedGANConfig
from raydfkd.synthesis.method import Frame, Method, SynthesisContext, SynthesisParts
from raydfkd.types import BufferSummary, Preparation, SyntheticBatch, WeightsVersion

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raydfkd.tasks.task import Task
else:
    torch = deferred("torch")

SLICE_S = 5.0
"""Duration of one ``prepare`` slice, between which state can be saved and progress reported."""


class HiDFDConfig(GuidedGANConfig):
    """HiDFD (arXiv 2412.13525): a class-conditional GAN on few collected images, its discriminator guided by the teacher."""

    method: Literal["hidfd"] = "hidfd"
    """Name of the synthesis method."""
    pretrain_steps: Annotated[int, Budget()] = Field(50_000, ge=0)
    """GAN steps before the first batch is delivered."""
    steps_per_batch: int = Field(0, ge=0)
    """GAN steps between two delivered batches; 0: the GAN is frozen once it delivers, as in the paper."""

    @model_validator(mode="after")
    def _is_trained(self) -> Self:
        if self.pretrain_steps == 0 and self.steps_per_batch == 0:
            raise ValueError("pretrain_steps and steps_per_batch are both 0, so the GAN would never be trained: raise one")
        return self

    def images_trained_on(self, batches: int) -> int:
        steps = self.pretrain_steps + batches * self.steps_per_batch
        # The generator's batch, and for each update of the discriminator a real and a synthetic one.
        return steps * self.gan_batch_size * (1 + 2 * self.discriminator_steps)


class HiDFDSynthesizer:
    """Trains a ``GuidedGAN`` and delivers its images. It does not use the student."""

    def __init__(self, config: HiDFDConfig, task: Task, gan: GuidedGAN, context: SynthesisContext) -> None:
        self.config = config
        self.task = task
        self.gan = gan
        self.context = context
        self.student_version: WeightsVersion = 0

    @classmethod
    def build(cls, config: HiDFDConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> Self:
        """Builds it from the networks and images of a run.

        Raises:
            ConfigError: there are no collected images, or they have a size that the GAN cannot make.
            TeacherError: the teacher's features cannot be found.
        """
        if parts.collected is None:
            raise ConfigError("hidfd trains a GAN on real images: give them in collected")
        teacher = parts.teacher.to(device).to(memory_format=torch.channels_last)
        images = torch.from_numpy(np.array(parts.collected.images))
        classes = torch.from_numpy(np.array(parts.collected.targets))
        gan = GuidedGAN(config, teacher, images, classes, context.seed, device, context.bf16)
        return cls(config, parts.task, gan, context)

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


METHOD = Method(
    config=HiDFDConfig,
    build=HiDFDSynthesizer.build,
    title="HiDFD: a teacher-guided conditional GAN on few collected images",
    paper="arXiv 2412.13525",
    needs_gradient=True,
    needs_collected=True,
    frame=Frame(student={"objective": {"kind": "classifier_sharing"}}),
    figures=(
        Figure(
            "Discriminator: probability of being real",
            {"real_confidence": "real images", "synthetic_confidence": "synthetic images"},
            percent=True,
        ),
        Figure(
            "Generator: classes",
            {"class_hit_rate": "teacher predicts the target class", "class_evenness": "evenness (100%: equal shares)"},
            percent=True,
        ),
    ),
)
