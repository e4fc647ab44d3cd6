"""The boundary attack as a stage after any source: batches keep their size and contain a share of attack images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.synthesis.boundary import AttackedImages, BoundaryAttack
from raydfkd.synthesis.method import SynthesisConfig, SynthesisContext
from raydfkd.synthesis.procedural.balance import choose_even
from raydfkd.types import BufferSummary, Preparation, Synthesizer, SyntheticBatch, WeightsVersion


class AttackedSynthesizer:
    """Wraps another synthesizer and attacks some of its images.

    The paper's set of the attack's images is here made batch by batch, so that buffer, schedule and step count mean the same
    with and without the attack: of the images that the attack made, and those that were not attacked, a batch takes those that
    make the buffer's classes even; of a class, first the attack's images. With a source that is not class-balanced it takes
    them in that order alone. Attacked images come after the attack's with ``keep_originals``, and otherwise last and only where
    the attack found so few pairs that a batch would have fewer images than it should.

    Args:
        inner: makes the images.
        config: the source's settings, with ``boundary_attack``.
        teacher: frozen, on ``device``; may be shared with the inner synthesizer.
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
        self.keep_originals = config.boundary_attack.keep_originals
        self.num_attacked = config.boundary_attack.num_attacked(config.batch_size)
        self.balanced = config.class_balanced_batches
        self.rng = torch.Generator().manual_seed(context.seed + 1)  # independent of the inner one's draws

    def prepare(self) -> Preparation | None:
        return self.inner.prepare()

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        self.inner.load_student(weights, version)

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        batch = self.inner.step(summary)
        order = torch.randperm(len(batch), generator=self.rng).numpy()
        rows = order[: self.num_attacked]
        made = self.attack(batch.images[rows], batch.teacher_class[rows], self.rng)
        if not self.keep_originals:
            lacking = max(0, self.num_attacked - len(made.images))
            order = np.concatenate([order[self.num_attacked :], rows[:lacking]])
        everything = _joined(made, batch.take(order))
        chosen = np.arange(len(everything))
        if self.balanced:
            chosen = choose_even(everything.teacher_class, summary.images_by_class, len(batch))
        return everything.take(chosen[: len(batch)])

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self.rng.set_state(state["rng"].cpu())


def _joined(made: AttackedImages, batch: SyntheticBatch) -> SyntheticBatch:
    """The attack's images followed by the batch's."""
    highest = None
    if batch.priorities is not None:
        # No student has trained on the new ones yet: they start with the batch's highest priority.
        highest = np.full(len(made.images), batch.priorities.max(), batch.priorities.dtype)
    attacked = replace(
        batch,
        images=made.images,
        targets=made.targets,
        teacher_class=made.teacher_class,
        teacher_confidence=made.teacher_confidence,
        priorities=highest,
        class_histogram=None,
    )
    counted = {
        "attacked_images": float(made.num_attacked),
        "attack_crossed": made.num_crossed / made.num_attacked,
        "attack_pairs": made.num_pairs / made.num_attacked,
    }
    return SyntheticBatch.concat([attacked, batch], metrics=batch.metrics | counted)
