"""The data that crosses rooms, and the protocols of the parts that exchange it. Numpy only: no torch, no ray.

Shape letters: N images of a batch, C channels, H x W pixels, K classes, B draws of one training batch, S batches of a reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

ItemKey = int
"""Identity of one stored image for ever: ``generation * total_slots + slot``, so a slot's older tenants have other keys."""

WeightsVersion = int
"""Number of rounds the student had finished when its weights were published; 0 is the initial student, -1 unknown."""

PINNED_SOURCES = ("collected", "condensed", "surrogate")
"""Sources whose images go to the ``pinned`` table, which never evicts."""


@dataclass(frozen=True)
class Judgement:
    """What the teacher says of N images that are or will be stored; each task says how (``tasks.Task.judge``).

    Attributes:
        classes: int32 [N], the dominant class.
        confidences: float32 [N] in [0,1], the probability of what was chosen, at temperature 1.
        histogram: int32 [N,K], positions of each class in each image; None: one position an image, of class ``classes``.
    """

    classes: np.ndarray
    confidences: np.ndarray
    histogram: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def concat(cls, parts: Sequence[Judgement]) -> Judgement:
        """All of them, one after the other."""
        histograms = [part.histogram for part in parts if part.histogram is not None]
        return cls(
            np.concatenate([part.classes for part in parts]),
            np.concatenate([part.confidences for part in parts]),
            np.concatenate(histograms) if histograms else None,
        )

    def take(self, rows: np.ndarray) -> Judgement:
        """Of these images alone."""
        return Judgement(self.classes[rows], self.confidences[rows], None if self.histogram is None else self.histogram[rows])


@dataclass(frozen=True)
class SyntheticBatch:
    """Images made by one synthesis step, with what the teacher says of them. Immutable by convention, numpy throughout.

    Attributes:
        images: uint8 [N,C,H,W], pixel value 255 is 1.0.
        targets: what the synthesizer aimed at, int64 [N] or int16 [N,H,W]; -1 where there was no target.
        teacher_class: int32 [N], the teacher's argmax.
        teacher_confidence: float32 [N] in [0,1], its probability at temperature 1.
        source: the method's name, or one of ``PINNED_SOURCES``.
        generator_id: who made it, e.g. ``inversion-0``.
        student_version: the student weights that the synthesizer had.
        priorities: float32 [N] raw priority (before the exponent), or None: the table's current largest.
        metrics: scalar losses of the step that made it, for the log.
    """

    images: np.ndarray
    targets: np.ndarray
    teacher_class: np.ndarray
    teacher_confidence: np.ndarray
    source: str
    generator_id: str
    student_version: WeightsVersion
    priorities: np.ndarray | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of_judgement(
        cls, judgement: Judgement, *, images: np.ndarray, targets: np.ndarray | None = None, source: str, generator_id: str,
        student_version: WeightsVersion = -1, priorities: np.ndarray | None = None, metrics: dict[str, float] | None = None,
    ) -> SyntheticBatch:  # fmt: skip
        """A batch of images and what the teacher says of them; without ``targets`` nothing was aimed at."""
        return cls(
            images=images,
            targets=np.full(len(images), -1, np.int64) if targets is None else targets,
            teacher_class=judgement.classes,
            teacher_confidence=judgement.confidences,
            source=source,
            generator_id=generator_id,
            student_version=student_version,
            priorities=priorities,
            metrics={} if metrics is None else metrics,
        )

    @property
    def num_bytes(self) -> int:
        return int(self.images.nbytes + self.targets.nbytes + self.teacher_class.nbytes + self.teacher_confidence.nbytes)


@dataclass(frozen=True)
class BufferSummary:
    """What flows back to synthesis: how full the buffer is and which classes it holds.

    Attributes:
        size: items in the synthetic table.
        class_counts: int64 [K], items per teacher class in the synthetic table.
        num_batches: batches inserted so far in the whole run (the synthesizers' common clock).
    """

    size: int
    class_counts: np.ndarray
    num_batches: int


@dataclass(frozen=True)
class Sample:
    """Draws for S consecutive training batches of B items each.

    Attributes:
        keys: int64 [S,B].
        slots: int32 [S,B], where each item lies in a mirror of the buffer.
        importance_weights: float32 [S,B], (N P)^-beta divided by its maximum over each batch.
        probabilities: float32 [S,B], the P(i) with which each item was drawn.
        ages: int32 [S,B], batches inserted since the item was.
    """

    keys: np.ndarray
    slots: np.ndarray
    importance_weights: np.ndarray
    probabilities: np.ndarray
    ages: np.ndarray


@dataclass(frozen=True)
class Preparation:
    """A slice of what a synthesizer does before its first batch: ``done`` of ``total`` steps, the seconds that the slice took,
    and its mean losses."""

    done: int
    total: int
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, float]:
        """The values of a ``preparation`` metrics record."""
        return {"done": self.done, "total": self.total, "prepare_s": self.seconds, **self.metrics}


class Synthesizer(Protocol):
    """Makes images. Owns its networks, optimisers and random generator; never sees Ray, replay or files."""

    def prepare(self) -> Preparation | None:
        """Some seconds of the work that comes before the first batch; None when none is left."""
        ...

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        """Makes one batch, given what the buffer holds."""
        ...

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        """Takes newer student weights: one flat float32 vector (see ``raydfkd.models.flat_weights``)."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
