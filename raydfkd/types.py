"""Data passed between packages, and the protocols of the parts that exchange it. Numpy only: no torch, no ray.

Shape letters: N images of a batch, C channels, H x W pixels, K classes, B draws of one training batch, S batches of a reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np

WeightsVersion = int
"""Number of rounds the student had finished when its weights were published; 0 is the initial student, -1 unknown."""

PINNED_SOURCES = ("collected", "condensed", "surrogate")
"""Sources whose images go to the ``pinned`` table, which never evicts."""


@dataclass(frozen=True)
class Judgement:
    """The teacher's predictions for N images that are or will be stored; each task defines how (``tasks.Task.judge``).

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
        """Concatenates all of them."""
        histograms = [part.histogram for part in parts if part.histogram is not None]
        return cls(
            np.concatenate([part.classes for part in parts]),
            np.concatenate([part.confidences for part in parts]),
            np.concatenate(histograms) if histograms else None,
        )

    def take(self, rows: np.ndarray) -> Judgement:
        """The judgement of these images only."""
        return Judgement(self.classes[rows], self.confidences[rows], None if self.histogram is None else self.histogram[rows])


@dataclass(frozen=True)
class SyntheticBatch:
    """Images made by one synthesis step, with the teacher's predictions. Immutable by convention, numpy throughout.

    An image has one *position* for which the teacher gives a class (classification), or H*W of them (segmentation).

    Attributes:
        images: uint8 [N,C,H,W], pixel value 255 is 1.0.
        targets: the synthesizer's targets, int64 [N] or int16 [N,H,W]; -1 where there was no target.
        teacher_class: int32 [N], the class the teacher assigns to most positions of the image.
        teacher_confidence: float32 [N] in [0,1], its probability at temperature 1.
        source: the method's name, or one of ``PINNED_SOURCES``.
        generator_id: who made it, e.g. ``inversion-0``.
        student_version: the student weights that the synthesizer had.
        priorities: float32 [N] raw priority (before the exponent), or None: the table's current largest.
        class_histogram: int32 [N,K], how many positions of each image the teacher gives to each class; None: every image has
            one position, of class ``teacher_class``.
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
    class_histogram: np.ndarray | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def concat(cls, batches: Sequence[SyntheticBatch], **described: Any) -> SyntheticBatch:
        """One batch with the images of all, in order.

        Args:
            batches: at least one.
            described: fields of the new batch that are not per image (``source``, ``metrics`` ...); those not given
                are the first batch's. ``priorities=None`` and ``class_histogram=None`` drop those of the batches.

        Raises:
            ValueError: there is no batch, or some have ``priorities`` or a ``class_histogram`` and others do not.
        """
        if not batches:
            raise ValueError("no batches to join: give at least one")
        columns: dict[str, Any] = {}
        for name in (name for name in _COLUMNS if name not in described):
            parts = [getattr(batch, name) for batch in batches]
            missing = sum(part is None for part in parts)
            if 0 < missing < len(parts):
                raise ValueError(f"{missing} of {len(parts)} batches have no {name}: give it to all, or join with {name}=None")
            columns[name] = None if missing else np.concatenate(parts)
        return replace(batches[0], **columns, **described)

    def take(self, rows: np.ndarray | slice) -> SyntheticBatch:
        """The images of ``rows``, in that order: indices int [n], a mask bool [N], or a slice."""
        held = {name: getattr(self, name) for name in _COLUMNS}
        columns: dict[str, Any] = {name: None if values is None else values[rows] for name, values in held.items()}
        return replace(self, **columns)

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of_judgement(
        cls, judgement: Judgement, *, images: np.ndarray, targets: np.ndarray | None = None, source: str, generator_id: str,
        student_version: WeightsVersion = -1, priorities: np.ndarray | None = None, metrics: dict[str, float] | None = None,
    ) -> SyntheticBatch:  # fmt: skip
        """A batch of images with the teacher's judgement; without ``targets`` they are all -1."""
        return cls(
            images=images,
            targets=np.full(len(images), -1, np.int64) if targets is None else targets,
            teacher_class=judgement.classes,
            teacher_confidence=judgement.confidences,
            source=source,
            generator_id=generator_id,
            student_version=student_version,
            priorities=priorities,
            class_histogram=judgement.histogram,
            metrics={} if metrics is None else metrics,
        )

    @property
    def classes(self) -> np.ndarray:
        """The basis of class-balanced selection: ``class_histogram`` [N,K] if there is one, otherwise ``teacher_class`` [N]."""
        return self.teacher_class if self.class_histogram is None else self.class_histogram

    def class_counts(self, num_classes: int) -> np.ndarray:
        """int64 [K], how many positions of all images together the teacher gives to each class."""
        if self.class_histogram is None:
            return np.bincount(self.teacher_class, minlength=num_classes)
        return self.class_histogram.sum(axis=0, dtype=np.int64)

    @property
    def num_bytes(self) -> int:
        """Bytes of the images and of what is stored with each, without ``priorities``."""
        histogram = 0 if self.class_histogram is None else self.class_histogram.nbytes
        arrays = (self.images, self.targets, self.teacher_class, self.teacher_confidence)
        return int(sum(array.nbytes for array in arrays) + histogram)


_COLUMNS = ("images", "targets", "teacher_class", "teacher_confidence", "priorities", "class_histogram")
"""Fields of a batch that hold a row for each image."""


@dataclass(frozen=True)
class BufferSummary:
    """Feedback to synthesis: the buffer's size and class counts.

    Attributes:
        size: items (images) in the synthetic table.
        class_counts: int64 [K], positions of each teacher class in the synthetic table. With one position an image, as in
            classification, these are items.
        num_batches: batches inserted so far in the whole run (the synthesizers' common clock).
    """

    size: int
    class_counts: np.ndarray
    num_batches: int

    @property
    def images_by_class(self) -> np.ndarray:
        """int64 [K]: ``class_counts`` in images, as many as their positions fill."""
        positions = max(1, int(self.class_counts.sum()) // max(1, self.size))
        return self.class_counts // positions


@dataclass(frozen=True)
class Sample:
    """Draws for S consecutive training batches of B items each.

    Attributes:
        keys: int64 [S,B].
        slots: int32 [S,B], each item's position in a mirror of the buffer.
        importance_weights: float32 [S,B], (N P)^-beta; see ``ReplayBuffer.sample``.
        ages: int32 [S,B], batches inserted since the item was.
    """

    keys: np.ndarray
    slots: np.ndarray
    importance_weights: np.ndarray
    ages: np.ndarray

    @classmethod
    def concat(cls, samples: Sequence[Sample]) -> Sample:
        """Draws for consecutive batches as one."""
        return cls(*(np.concatenate([getattr(sample, each.name) for sample in samples]) for each in fields(cls)))


@dataclass(frozen=True)
class Preparation:
    """A slice of a synthesizer's preparation before its first batch: ``done`` of ``total`` steps, the seconds it took,
    and its mean losses."""

    done: int
    total: int
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, float]:
        """The values of a ``preparation`` metrics record."""
        return {"done": self.done, "total": self.total, "prepare_s": self.seconds, **self.metrics}


class Synthesizer(Protocol):
    """Makes images. Owns its networks, optimisers and random generator; independent of Ray, replay and files."""

    def prepare(self) -> Preparation | None:
        """Does a few seconds of preparation before the first batch; None when it is complete."""
        ...

    def step(self, summary: BufferSummary) -> SyntheticBatch:
        """Makes one batch, given a summary of the buffer."""
        ...

    def load_student(self, weights: np.ndarray, version: WeightsVersion) -> None:
        """Takes newer student weights: one flat float32 vector (see ``raydfkd.models.flat_weights``)."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
