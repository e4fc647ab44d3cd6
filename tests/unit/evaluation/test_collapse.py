"""Notices of collapse: on records of runs that collapse, once each, and on none of a healthy one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raydfkd.evaluation.collapse import BATCHES, CollapseWatch, batch_figures
from raydfkd.types import SyntheticBatch


def watch() -> CollapseWatch:
    return CollapseWatch(num_classes=10, total_steps=900, advice=lambda source: f"raise sources.{source}.bn_weight")


def synthesis(step: int, entropy: float, repeated: float, source: str = "inversion") -> dict[str, Any]:
    figures = {"batch_class_entropy": entropy, "batch_repeated": repeated}
    return {"kind": "synthesis", "step": step, "generator_id": f"{source}-0", **figures}


def measured(step: int, agreement: float, kind: str = "held_out") -> dict[str, Any]:
    key = "agreement_last" if kind == "held_out" else "agreement"
    return {"kind": kind, "step": step, "student": "small", key: agreement}


def told(records: list[dict[str, Any]]) -> list[str]:
    looking = watch()
    return [sentence for record in records for sentence in looking.notices(record)]


def test_a_healthy_run_gives_no_notice() -> None:
    warm_up = [synthesis(0, 0.05, 0.9)] * 20
    batches = [synthesis(step, 0.8, 0.02) for step in range(3, 900, 30)]
    student = [measured(step, min(0.9, 0.1 + step / 900)) for step in range(90, 901, 90)]
    assert told([*warm_up, *batches, *student]) == []


def test_few_classes_are_noticed_after_as_many_batches_as_are_looked_at_and_once() -> None:
    records = [synthesis(3, 0.1, 0.0) for _ in range(3 * BATCHES)]
    (sentence,) = told(records)
    assert sentence.startswith(
        "source 'inversion' collapses onto few classes: the relative class entropy of its last 8 batches"
    )
    assert sentence.endswith("is 0.10, and sets that distil well are above 0.9; raise sources.inversion.bn_weight")
    assert told(records[: BATCHES - 1]) == []
    assert len(told([*records, *(synthesis(3, 0.1, 0.0, "other") for _ in range(BATCHES))])) == 2, "each source for itself"


def test_repeated_images_are_noticed() -> None:
    (sentence,) = told([synthesis(3, 0.9, 0.75) for _ in range(BATCHES)])
    assert sentence == (
        "source 'inversion' repeats its images: 75% of those of a batch look like another one in it; raise "
        "sources.inversion.bn_weight"
    )


@pytest.mark.parametrize("kind", ["held_out", "evaluation"])
def test_a_student_at_chance_is_noticed_once_a_third_of_the_steps_are_done(kind: str) -> None:
    assert told([measured(step, 0.12, kind) for step in (90, 180, 270)]) == []
    (sentence,) = told([measured(step, 0.12, kind) for step in (90, 180, 300, 390)])
    assert "agrees with the teacher on 12.0%" in sentence
    assert "after 300 steps, where guessing gives 10.0%" in sentence
    assert "lower students.small.optimizer.lr" in sentence
    short = CollapseWatch(num_classes=10, total_steps=90, advice=str)
    assert [short.notices(measured(step, 0.1, kind)) for step in (30, 90)] == [[], []], "a run of few steps is a trial"


def test_a_student_that_loses_half_of_what_it_had_is_noticed() -> None:
    assert told([measured(90, 0.8), measured(180, 0.5), measured(270, 0.7)]) == []
    assert told([measured(90, 0.27), measured(180, 0.03), measured(270, 0.3)]) == [], "it had not learnt anything yet"
    (sentence,) = told([measured(90, 0.8), measured(180, 0.3), measured(270, 0.2)])
    assert sentence.startswith("student 'small' has fallen from 80.0% to 30.0% agreement with the teacher on the held-out")


def batch(images: np.ndarray, classes: list[int]) -> SyntheticBatch:
    number = len(images)
    return SyntheticBatch(
        images=images, targets=np.full(number, -1, np.int64), teacher_class=np.array(classes, np.int32),
        teacher_confidence=np.ones(number, np.float32), source="ssdkd", generator_id="inversion-0", student_version=0,
    )  # fmt: skip


def test_figures_of_a_batch() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 8, 8), dtype=np.uint8)
    assert batch_figures(batch(images, list(range(8))), 100) == {"batch_class_entropy": 1.0, "batch_repeated": 0.0}
    images[1:] = images[0]
    figures = batch_figures(batch(images, [3] * 8), 10)
    assert figures == {"batch_class_entropy": 0.0, "batch_repeated": 0.875}


def test_classes_of_pixels_count_and_not_those_that_fill_most_of_each_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16)).astype(np.uint8)
    pixels = replace(batch(images, [0, 0]), class_histogram=np.full((2, 4), 64, np.int32))
    assert batch_figures(pixels, 4)["batch_class_entropy"] == 1.0
