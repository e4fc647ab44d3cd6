"""The boundary attack as a stage behind any source: its batches keep their size, and attacked images take a share of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from raydfkd.models.teacher import FrozenTeacher
from raydfkd.synthesis.boundary import AttackedImages, BoundaryAttack
from raydfkd.synthesis.config import SynthesisConfig
from raydfkd.synthesis.context import SynthesisContext
from raydfkd.types import BufferSummary, Preparation, Synthesizer, SyntheticBatch, WeightsVersion


class AttackedSynthesizer:
    """Another synthesizer, some of whose images are attacked.

    The paper adds the attack's images to the set and selects the set's old size from all of them. Here every batch keeps
    its size, so that buffer, schedule and step count mean the same with and without the attack: an image that is attacked
    stays, and what comes of it takes the places of images that are not.

    Args:
        inner: makes the images.
        config: the source's settings, with ``boundary_attack``.
        teacher: frozen, on ``device``; it may be the inner synthesizer's own.
    """

    def __init__(
        self,
        inner: Synthesizer,
        config: SynthesisConfig,
        teacher: FrozenTeacher,
        context: SynthesisContext,
        device: torch.device,
    ) -> None:
        assert config.boundary_attack is not None
        self.inner = inner
        self.attack = BoundaryAttack(config.boundary_attack, teacher.to(device), device, context.bf16)
        self.num_attacked = config.boundary_attack.num_attacked(config.batch_size)
        self.rng = torch.Generator().manual_seed(context.seed + 1)  # not the draws of the inner one

    def prepare(self) -> Preparation | None:
        return self.inner.prepare()

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        self.inner.load_student(weights, version)

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        batch = self.inner.step(summary)
        order = torch.randperm(len(batch), generator=self.rng).numpy()
        rows = order[: self.num_attacked]
        made = self.attack(batch.images[rows], batch.teacher_class[rows], self.rng)
        return _merged(batch, order[: len(batch) - len(made.images)], made)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self.rng.set_state(state["rng"].cpu())


def _merged(batch: SyntheticBatch, kept: np.ndarray, made: AttackedImages) -> SyntheticBatch:
    """The batch's ``kept`` rows, of which the attacked ones come first, and the attack's images."""
    priorities = None
    if batch.priorities is not None:
        # Nobody has seen the new ones yet: they start as high as the batch's highest.
        highest = np.full(len(made.images), batch.priorities.max(), batch.priorities.dtype)
        priorities = np.concatenate([batch.priorities[kept], highest])
    return SyntheticBatch(
        images=np.concatenate([batch.images[kept], made.images]),
        targets=np.concatenate([batch.targets[kept], made.targets]),
        teacher_class=np.concatenate([batch.teacher_class[kept], made.teacher_class]),
        teacher_confidence=np.concatenate([batch.teacher_confidence[kept], made.teacher_confidence]),
        source=batch.source,
        generator_id=batch.generator_id,
        student_version=batch.student_version,
        priorities=priorities,
        metrics=batch.metrics
        | {
            "attacked_images": float(made.num_attacked),
            "attack_crossed": made.num_crossed / made.num_attacked,
            "attack_pairs": made.num_pairs / made.num_attacked,
        },
    )
