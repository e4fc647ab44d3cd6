"""What some evaluation images show of a teacher before a run: whether it knows them, and whether both name the same classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from raydfkd.data.datasets import ImageDataset
from raydfkd.evaluation.accuracy import Classifier, evaluate
from raydfkd.evaluation.scores import ACCURACY, Measure

NUM_IMAGES = 200
DEVIATIONS = 3.0
"""Standard deviations that an accuracy on so few images may be above chance, or below what was recorded, by luck."""
NAMES_SHOWN = 5


def look_at(
    teacher: Classifier,
    dataset: ImageDataset,
    classes: Sequence[str] | None,
    recorded: dict[str, str],
    device: torch.device | str = "cpu",
    measure: Measure = ACCURACY,
) -> Iterator[str]:
    """One sentence for each thing that looks wrong.

    Args:
        teacher: see ``evaluate``.
        dataset: labelled images; its classes are in the teacher's order if both have the same names.
        classes: names of the teacher's classes, if they are known.
        recorded: what its training recorded of it (``evaluation_split`` and, by its name, the figure of merit), as text.
        device: the teacher's.
        measure: the figure of merit. A network that always gives one class has at most one in the number of classes of it,
            both of accuracy on balanced classes and of mean IoU.
    """
    shown = f"the data's: {_some(dataset.classes)}" + ("" if classes is None else f"; the teacher's: {_some(classes)}")
    named = classes is not None and not _are_numbers(classes) and not _are_numbers(dataset.classes)
    if classes is not None and tuple(classes) != dataset.classes and (named or not _are_in_order(dataset.classes)):
        yield f"the evaluation data's classes are not the teacher's, so labels are taken in the data's order ({shown})"
    elif classes is None and _are_numbers(dataset.classes) and not _are_in_order(dataset.classes):
        yield f"the evaluation data's classes are numbers and in the order of their texts ({shown}): name them 00, 01, ..."
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(NUM_IMAGES, len(dataset))).astype(int))
    some = replace(dataset, images=np.ascontiguousarray(dataset.images[rows]), labels=dataset.labels[rows])
    found, chance = evaluate(teacher, some, device=device, measure=measure).metric, 1 / dataset.num_classes
    said = measure.said.format(value=f"{found:.1%}", images=f"{len(some)} evaluation images")
    if found <= chance + DEVIATIONS * math.sqrt(chance * (1 - chance) / len(some)):
        yield (
            f"the teacher {said}, which is chance for "
            f"{dataset.num_classes} classes: check the order of the classes ({shown}), teacher.normalization, "
            "the images' size and channels, and whether the weights belong to this network"
        )
    elif recorded.get("evaluation_split") == f"{dataset.name}/{dataset.split}" and measure.name in recorded:
        before = float(recorded[measure.name])
        if found < before - 0.1 - DEVIATIONS * math.sqrt(before * (1 - before) / len(some)):
            yield (
                f"the teacher {said}, and its file records {before:.1%} "
                "of all of them: check teacher.normalization and the images' size"
            )


def _are_numbers(classes: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in classes)


def _are_in_order(classes: Sequence[str]) -> bool:
    """Whether the names are 0, 1, ..., which is what a data set without names has."""
    return list(classes) == [str(k) for k in range(len(classes))]


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:NAMES_SHOWN]) + (", ..." if len(classes) > NAMES_SHOWN else "")
