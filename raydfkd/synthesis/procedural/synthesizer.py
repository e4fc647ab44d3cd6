"""Renders images, lets the teacher judge them, and delivers those that make the buffer's classes even.

The endless form of the selection in "What Makes a Good Dataset for Knowledge Distillation?" (Sec. 3.2): instead of choosing
50,000 images once from many more, each batch is chosen from up to ``max_tries`` rendered ones, given what the buffer holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from raydfkd.errors import DataError
from raydfkd.models.teachers.teacher import FrozenTeacher
from raydfkd.synthesis.context import SynthesisContext, SynthesisParts
from raydfkd.synthesis.procedural.balance import choose_even, even_shares, evenness
from raydfkd.synthesis.procedural.config import ProceduralConfig
from raydfkd.synthesis.procedural.filters import filter_images
from raydfkd.synthesis.procedural.images import ImageSource, to_uint8
from raydfkd.synthesis.procedural.sources import build_source
from raydfkd.types import BufferSummary, Preparation, SyntheticBatch, WeightsVersion


@dataclass
class _Candidates:
    """Rendered images that passed the filters: uint8 [N,C,H,W], and the teacher's class and confidence [N]."""

    images: Tensor
    classes: Tensor
    confidence: Tensor

    @classmethod
    def joined(cls, parts: list[_Candidates]) -> _Candidates:
        return cls(*(torch.cat([getattr(p, name) for p in parts]) for name in ("images", "classes", "confidence")))


class ProceduralSynthesizer:
    """One endless source of images. It needs the teacher's opinion only, and has no use for the student."""

    def __init__(
        self,
        config: ProceduralConfig,
        teacher: FrozenTeacher,
        source: ImageSource,
        context: SynthesisContext,
        device: torch.device,
    ) -> None:
        self.config = config
        self.context = context
        self.device = device
        self.teacher = teacher.to(device).to(memory_format=torch.channels_last)
        self.source = source
        self.student_version: WeightsVersion = 0
        self.rng = torch.Generator().manual_seed(context.seed)

    @classmethod
    def build(cls, config: ProceduralConfig, parts: SynthesisParts, context: SynthesisContext, device: torch.device) -> Self:
        """With the source of the settings.

        Raises:
            ConfigError, DataError: see ``build_source``.
        """
        return cls(config, parts.teacher, build_source(config.images, parts.teacher, device), context, device)

    def prepare(self) -> Preparation | None:
        """Nothing: the first batch is as good as any."""
        return None

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        self.student_version = version

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        """A batch of the images that the buffer lacks most.

        Raises:
            DataError: every rendered image was dropped by the filters.
        """
        held = summary.class_counts
        everything = np.full(len(held), self.config.batch_size)
        wanted = even_shares(held, everything, self.config.batch_size)
        parts: list[_Candidates] = []
        counts = np.zeros(len(held), np.int64)
        figures: dict[str, int] = {"rendered": 0, "constant": 0, "two_colours": 0, "duplicate": 0}
        for _ in range(self.config.max_tries):
            found, dropped = self._candidates()
            figures["rendered"] += self.config.batch_size
            for name, count in dropped.items():
                figures[name] += count
            parts.append(found)
            counts += np.bincount(found.classes.cpu().numpy(), minlength=len(held))
            enough = counts.sum() >= self.config.batch_size
            if enough and (not self.config.class_balanced or (counts >= wanted).all()):
                break
        if not counts.sum():
            raise DataError(
                f"all {figures['rendered']} images that source {self.config.images.kind!r} rendered are constant or have two "
                "colours: change images, or set drop_degenerate=false"
            )
        return self._delivered(_Candidates.joined(parts), held, counts, figures)

    @torch.no_grad()
    def _candidates(self) -> tuple[_Candidates, dict[str, int]]:
        """One rendered batch without what the filters drop, judged as it would be stored; and how many were dropped why."""
        images = to_uint8(self.source.render(self.config.batch_size, self.rng))
        dropped: dict[str, int] = {}
        if self.config.drop_degenerate:
            filtered = filter_images(images)
            images, dropped = images[filtered.kept], filtered.counts()
        if not len(images):
            nothing = torch.zeros(0, device=self.device)
            return _Candidates(images, nothing.long(), nothing), dropped
        judged = self.teacher.judge(images, self.context.bf16)
        return _Candidates(images, judged.classes.long(), judged.confidences), dropped

    def _delivered(
        self, candidates: _Candidates, held: np.ndarray, counts: np.ndarray, figures: dict[str, int]
    ) -> SyntheticBatch:
        chosen = self._chosen(candidates.classes.cpu(), held)
        index = chosen.to(self.device)
        classes = candidates.classes[index].int().cpu().numpy()
        distinct = len(chosen.unique())
        return SyntheticBatch(
            images=candidates.images[index].contiguous(memory_format=torch.contiguous_format).cpu().numpy(),
            targets=np.full(len(classes), -1, np.int64),
            teacher_class=classes,
            teacher_confidence=candidates.confidence[index].cpu().numpy(),
            source=self.config.method,
            generator_id=self.context.generator_id,
            student_version=self.student_version,
            metrics={
                **{name: float(count) for name, count in figures.items()},
                "acceptance_rate": distinct / figures["rendered"],
                "repeated": float(len(chosen) - distinct),
                "rendered_class_evenness": evenness(counts),
                "batch_class_evenness": evenness(np.bincount(classes, minlength=len(held))),
            },
        )

    def _chosen(self, classes_N: Tensor, held: np.ndarray) -> Tensor:
        """Which candidates to deliver, ``batch_size`` of them in random order; repeated where there are not enough."""
        size = self.config.batch_size
        order = torch.randperm(len(classes_N), generator=self.rng)
        if self.config.class_balanced:
            order = order[torch.from_numpy(choose_even(classes_N[order].numpy(), held, size))]
        return order.repeat(-(-size // len(order)))[:size]

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.set_state(state["rng"].cpu())
