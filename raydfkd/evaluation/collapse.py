"""Notices, while a run goes on, that its images or its student collapse: one sentence each, once, with what to change.

Where the thresholds come from: the surrogate-dataset study ("What Makes a Good Dataset for Knowledge Distillation?") finds a
relative class entropy above 0.9 in the sets that distil best and 0.1 to 0.6 in those that distil worst; ``LEAST_ENTROPY`` is in
the lower half of the latter, what two of ten classes have. The other thresholds are ours: most of the images repeat, the
student does not do better than twice what guessing gives once a third of its steps are done, or has lost half of what it had.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from raydfkd.replay.statistics import relative_entropy
from raydfkd.synthesis.procedural.filters import thumbnail_hashes
from raydfkd.types import SyntheticBatch

BATCHES = 8
"""Batches of a source that are looked at together: one alone may have few classes by chance, or by what it aims at."""
LEAST_ENTROPY = 0.3
MOST_REPEATED = 0.5
TIMES_CHANCE = 2
EARLY_SHARE = 1 / 3
EARLY_STEPS = 100
"""Fewer steps teach no student anything: a run of a few, to try something, gives no notice of its student."""
LOST_SHARE = 0.5
LEARNT = 0.5
"""Agreement from which a student has something to lose: below, an untrained one's comes and goes by chance."""

_AGREEMENT = {"held_out": "agreement_last", "evaluation": "agreement"}
"""Where a record of this kind has the student's agreement with the teacher on images that it does not train on."""


def batch_figures(batch: SyntheticBatch, num_classes: int) -> dict[str, float]:
    """What a record of a new batch says of it.

    ``batch_class_entropy`` is of the teacher's predictions, of pixels where these have classes of their own, relative to the
    most that so many images can have, log min(N, K), or that pixels can, log K.
    ``batch_repeated`` is the share of images whose thumbnail (8x8, 4 bits) is that of an image before them in the batch.
    """
    classes = batch.teacher_class
    if batch.class_histogram is None:
        counts = np.sort(np.bincount(classes[classes >= 0], minlength=num_classes))[::-1][: len(classes)]
    else:
        counts = batch.class_counts(num_classes)
    hashes = thumbnail_hashes(torch.from_numpy(np.array(batch.images)))
    return {
        "batch_class_entropy": relative_entropy(counts),
        "batch_repeated": 1 - len(np.unique(hashes)) / len(hashes),
    }


class CollapseWatch:
    """Looks at a run's records in their order.

    Args:
        num_classes: K.
        total_steps: the student steps of the schedule.
        advice: for a source's name, what to change in its settings.
    """

    def __init__(self, num_classes: int, total_steps: int, advice: Callable[[str], str]) -> None:
        self._chance, self._total_steps, self._advice = 1 / num_classes, total_steps, advice
        self._batches: dict[str, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=BATCHES))
        self._best: dict[str, float] = defaultdict(float)
        self._told: set[tuple[str, str]] = set()

    def notices(self, record: Mapping[str, Any]) -> list[str]:
        """What is to be said after this record, usually nothing."""
        if record["kind"] == "synthesis" and "batch_repeated" in record and record["step"] > 0:
            found = self._of_images(str(record["generator_id"]).rpartition("-")[0], record)
        elif isinstance(record.get(_AGREEMENT.get(record["kind"], "")), float):
            found = self._of_student(str(record.get("student")), record)
        else:
            return []
        fresh = [(what, sentence) for what, sentence in found if what not in self._told]
        self._told.update(what for what, _ in fresh)
        return [sentence for _, sentence in fresh]

    def _of_images(self, source: str, record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], str]]:
        batches = self._batches[source]
        batches.append((float(record["batch_class_entropy"]), float(record["batch_repeated"])))
        if len(batches) < BATCHES:
            return
        entropy, repeated = np.mean(batches, axis=0).tolist()
        if entropy < LEAST_ENTROPY:
            told = (
                f"source {source!r} collapses onto few classes: the relative class entropy of its last {BATCHES} batches "
                f"is {entropy:.2f}, and sets that distil well are above 0.9; {self._advice(source)}"
            )
            yield (source, "classes"), told
        if repeated > MOST_REPEATED:
            told = (
                f"source {source!r} repeats its images: {repeated:.0%} of those of a batch look like another one in it; "
                f"{self._advice(source)}"
            )
            yield (source, "repeated"), told

    def _of_student(self, student: str, record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], str]]:
        value = record[_AGREEMENT[record["kind"]]]
        where = "held-out" if record["kind"] == "held_out" else "evaluation"
        best = self._best[student] = max(self._best[student], value)
        late = record["step"] >= max(EARLY_SHARE * self._total_steps, EARLY_STEPS)
        if late and best <= TIMES_CHANCE * self._chance:
            told = (
                f"student {student!r} agrees with the teacher on {value:.1%} of the {where} images after "
                f"{record['step']:,} steps, where guessing gives {self._chance:.1%}: what it learns from synthetic images "
                f"does not carry over; check the teacher's normalization, and lower students.{student}.optimizer.lr"
            )
            yield (student, "chance"), told
        elif record["step"] >= EARLY_STEPS and best >= LEARNT and value < LOST_SHARE * best:
            told = (
                f"student {student!r} has fallen from {best:.1%} to {value:.1%} agreement with the teacher on the {where} "
                f"images: lower students.{student}.optimizer.lr or set its max_grad_norm, and keep more images "
                "(replay.synthetic.capacity)"
            )
            yield (student, "lost"), told
