"""What another package adds to raydfkd: a method, an objective and a kind of data set, all in one module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raydfkd.data.dataset_kind import Chunk, DatasetConfig, DatasetKind, Source, read_whole
from raydfkd.distillation.objective import Objective, ObjectiveConfig, ObjectiveEntry
from raydfkd.models.network_output import NetworkOutput
from raydfkd.synthesis.method import Method, SynthesisConfig, SynthesisContext, SynthesisParts
from raydfkd.types import BufferSummary, Preparation, SyntheticBatch, WeightsVersion


class StripesConfig(SynthesisConfig):
    """Striped images."""

    method: Literal["toy_stripes"] = "toy_stripes"
    """Name of the synthesis method."""
    width: int = Field(2, ge=1)
    """Width of a stripe in pixels, a toy's setting."""


class StripesSynthesizer:
    """Images of vertical stripes with random grey values."""

    def __init__(self, config: StripesConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> None:
        self.config, self.parts, self.context = config, parts, context
        self.rng = torch.Generator().manual_seed(context.seed)
        self.version: WeightsVersion = 0

    def prepare(self) -> Preparation | None:
        return None

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        self.version = version

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        channels, height, width = self.parts.teacher.image_shape
        greys = torch.randint(0, 256, (self.config.batch_size, channels, 1, width), generator=self.rng, dtype=torch.uint8)
        images = greys[..., torch.arange(width) // self.config.width].expand(-1, -1, height, -1).contiguous()
        return SyntheticBatch.of_judgement(
            self.parts.task.judge(self.parts.teacher.logits_of(images, self.context.bf16)),
            images=images.numpy(),
            source=self.config.method,
            generator_id=self.context.generator_id,
            student_version=self.version,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.set_state(state["rng"])


METHOD = Method(config=StripesConfig, build=StripesSynthesizer, title="stripes of random grey values", paper="none")


class SquaredConfig(ObjectiveConfig):
    """Squared differences of logits."""

    kind: Literal["toy_squared"] = "toy_squared"
    """Name of the objective."""
    weight: float = Field(1.0, gt=0)
    """Weight of the differences."""


class SquaredObjective(Objective):
    """weight * mean over classes of (student - teacher)^2."""

    config: SquaredConfig

    def losses(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        return self.config.weight * (student.logits.float() - teacher.logits.float()).square().mean(1)


OBJECTIVE = ObjectiveEntry(config=SquaredConfig, objective=SquaredObjective, title="squared differences", paper="none")


class RampConfig(DatasetConfig):
    """Grey ramps."""

    kind: Literal["toy_ramps"] = "toy_ramps"
    """Kind of data set."""
    num_images: int = Field(20, ge=1)
    """How many."""


def open_ramps(config: RampConfig, labelled: bool) -> Source:
    from PIL import Image

    def chunks() -> Iterator[Chunk]:
        labels = np.arange(config.num_images) % 10
        yield Chunk(range(config.num_images), labels.astype(np.int64), lambda i: f"ramp {i}")

    def opener(number: int) -> Image.Image:
        return Image.fromarray(np.full((8, 8), 12 * number % 256, np.uint8))

    return Source("ramps", "grey ramps", config.num_images, None, opener, chunks())


DATASET = DatasetKind(config=RampConfig, title="grey ramps", open=open_ramps, rows=read_whole(open_ramps))
